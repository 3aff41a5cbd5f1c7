// Looks like a plugin but does nothing: the commands under test never run a plugin's code.
#include "backstop/abi.h"

extern "C" __attribute__((visibility("default"))) const backstop_plugin_descriptor*
backstop_plugin_v1() {
  return nullptr;
}
