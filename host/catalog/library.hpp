// Loads a plugin's library. Nothing is ever unloaded.
#pragma once

#include "backstop/abi.h"
#include "host/catalog/catalog.hpp"

namespace backstop::catalog {

/// The only symbol that a plugin exports.
inline constexpr const char* kPluginEntry = "backstop_plugin_v1";

/// Opens the library (absolute path, all symbols bound now, never unmapped) and returns its
/// descriptor after comparing it with the entry. Throws HostError(plugin) with file and reason.
/// Loading the same file again returns the same descriptor.
const backstop_plugin_descriptor& load_library(const PluginEntry& entry);

}  // namespace backstop::catalog
