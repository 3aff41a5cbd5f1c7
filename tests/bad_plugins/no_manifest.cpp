// Has the build's facts, and no manifest.
#include "bad_plugin.hpp"

BAD_PLUGIN_NOTE(1, BACKSTOP_BUILD_FACTS);
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
