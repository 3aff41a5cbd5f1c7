// Ends the process that loads it.
#include <cstdlib>

#include "bad_plugin.hpp"

namespace {
[[gnu::constructor]] void end_the_process() {
  std::abort();
}
}  // namespace

BAD_PLUGIN_GOOD_NOTES("aborts-on-load");
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
