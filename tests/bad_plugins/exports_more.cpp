// A good scheduler that exports a second symbol: two plugins of one address space could clash.
#include "bad_plugin.hpp"

extern "C" __attribute__((visibility("default"))) int one_symbol_too_many;
int one_symbol_too_many = 0;

BAD_PLUGIN_GOOD_NOTES("exports-more");
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
