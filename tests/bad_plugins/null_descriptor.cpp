// Its entry function returns nothing.
#include "bad_plugin.hpp"

BAD_PLUGIN_GOOD_NOTES("null-descriptor");

extern "C" __attribute__((visibility("default"))) const backstop_plugin_descriptor*
backstop_plugin_v1() {
  return nullptr;
}
