// Whoever loads it waits for ever, with a child that does so, too.
#include <unistd.h>

#include "bad_plugin.hpp"

namespace {
[[gnu::constructor]] void wait_with_a_child() {
  static_cast<void>(::fork());
  for (;;) ::pause();
}
}  // namespace

BAD_PLUGIN_GOOD_NOTES("forks-on-load");
BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
