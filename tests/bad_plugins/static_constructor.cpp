// A good scheduler that leaves a trace when its code is run: listing plugins must not.
#include <cstdio>
#include <cstdlib>

#include "bad_plugin.hpp"

namespace {
[[gnu::constructor]] void leave_a_trace() {
  std::fputs("static-constructor: code of a plugin runs\n", stderr);
  ::setenv("BACKSTOP_STATIC_CONSTRUCTOR_RAN", "1", 1);
}
}  // namespace

BAD_PLUGIN_GOOD_NOTES("static-constructor");
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
