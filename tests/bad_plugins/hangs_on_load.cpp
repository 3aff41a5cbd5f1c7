// Whoever loads it waits for ever.
#include <unistd.h>

#include "bad_plugin.hpp"

namespace {
[[gnu::constructor]] void wait_for_ever() {
  for (;;) ::pause();
}
}  // namespace

BAD_PLUGIN_GOOD_NOTES("hangs-on-load");
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
