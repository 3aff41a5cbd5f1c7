// Good notes, and no entry function.
#include "bad_plugin.hpp"

BAD_PLUGIN_GOOD_NOTES("no-entry");
