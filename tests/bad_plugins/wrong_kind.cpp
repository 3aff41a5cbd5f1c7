// The manifest says scheduler, the code dataset.
#include "bad_plugin.hpp"

BAD_PLUGIN_GOOD_NOTES("wrong-kind");

extern "C" __attribute__((visibility("default"))) const backstop_plugin_descriptor*
backstop_plugin_v1() {
  static constexpr backstop_plugin_descriptor descriptor = {
      sizeof(backstop_plugin_descriptor),
      BACKSTOP_PLUGIN_MAGIC,
      BACKSTOP_ABI_MAJOR,
      BACKSTOP_TARGET_ABI_MINOR,
      BACKSTOP_KIND_DATASET,
      &backstop::detail::create<backstop::Scheduler, GoodScheduler>,
      &backstop::detail::destroy<backstop::Scheduler, GoodScheduler>};
  return &descriptor;
}
