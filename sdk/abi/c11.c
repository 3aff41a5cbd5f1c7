/* abi.h promises to be C11 as well, for loaders that are not C++. */
#include "backstop/abi.h"

_Static_assert(sizeof(backstop_error) == 1544, "the size that layout.cpp states");

const backstop_plugin_descriptor* backstop_c11_load(backstop_plugin_entry entry);

const backstop_plugin_descriptor* backstop_c11_load(backstop_plugin_entry entry) {
  const backstop_plugin_descriptor* plugin = entry();
  return plugin->magic == BACKSTOP_PLUGIN_MAGIC && plugin->abi_major == BACKSTOP_ABI_MAJOR ? plugin
                                                                                           : 0;
}
