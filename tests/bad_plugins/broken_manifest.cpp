// The manifest is no TOML.
#include "bad_plugin.hpp"

BAD_PLUGIN_NOTE(1, BACKSTOP_BUILD_FACTS);
BAD_PLUGIN_NOTE(2, "name = \"broken-manifest\"\nkind = \"scheduler\nversion = \"1.0.0\"\n");
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
