// Built with a sanitizer that this build does not have.
#include "bad_plugin.hpp"

#ifdef __SANITIZE_ADDRESS__
#define OTHER_SANITIZER "thread"
#else
#define OTHER_SANITIZER "address"
#endif
BAD_PLUGIN_NOTE(1, BAD_PLUGIN_FACTS(BAD_PLUGIN_OWN_ABI, TORCH_VERSION, _GLIBCXX_USE_CXX11_ABI,
                                    OTHER_SANITIZER));
BAD_PLUGIN_NOTE(2, BAD_PLUGIN_MANIFEST("wrong-sanitizer"));
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
