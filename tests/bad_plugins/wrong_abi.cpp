// Built for a later ABI.
#include "bad_plugin.hpp"

BAD_PLUGIN_NOTE(1, BAD_PLUGIN_FACTS("99.7", TORCH_VERSION, _GLIBCXX_USE_CXX11_ABI,
                                    BACKSTOP_SANITIZER));
BAD_PLUGIN_NOTE(2, BAD_PLUGIN_MANIFEST("wrong-abi"));
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
