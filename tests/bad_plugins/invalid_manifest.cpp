// The manifest is TOML with two mistakes: an unknown key, and a default out of its range.
#include "bad_plugin.hpp"

BAD_PLUGIN_NOTE(1, BACKSTOP_BUILD_FACTS);
BAD_PLUGIN_NOTE(2, BAD_PLUGIN_MANIFEST("invalid-manifest")
                "sumary = \"twice\"\n"
                "[parameters.rate]\n"
                "type = \"float\"\n"
                "default = -1.0\n"
                "minimum = 0.0\n");
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
