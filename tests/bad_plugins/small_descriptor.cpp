// Its descriptor ends before `create`.
#include "bad_plugin.hpp"

BAD_PLUGIN_GOOD_NOTES("small-descriptor");

extern "C" __attribute__((visibility("default"))) const backstop_plugin_descriptor*
backstop_plugin_v1() {
  static constexpr backstop_plugin_descriptor descriptor = {
      16,
      BACKSTOP_PLUGIN_MAGIC,
      BACKSTOP_ABI_MAJOR,
      BACKSTOP_TARGET_ABI_MINOR,
      BACKSTOP_KIND_SCHEDULER,
      &backstop::detail::create<backstop::Scheduler, GoodScheduler>,
      &backstop::detail::destroy<backstop::Scheduler, GoodScheduler>};
  return &descriptor;
}
