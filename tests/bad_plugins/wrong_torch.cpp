// Built against another LibTorch.
#include "bad_plugin.hpp"

BAD_PLUGIN_NOTE(1, BAD_PLUGIN_FACTS(BAD_PLUGIN_OWN_ABI, "0.4.1", _GLIBCXX_USE_CXX11_ABI,
                                    BACKSTOP_SANITIZER));
BAD_PLUGIN_NOTE(2, BAD_PLUGIN_MANIFEST("wrong-torch"));
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
