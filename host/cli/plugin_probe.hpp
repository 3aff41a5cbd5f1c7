// Loads plugins of others in a process of their own first: what crashes there does not crash here.
#pragma once

#include <vector>

#include "host/recipe/recipe.hpp"

namespace backstop::cli {

/// Tries every plugin that the recipes use and that did not come with this program. Throws
/// HostError(plugin) naming the file and what happened.
void probe_plugins(const std::vector<recipe::Recipe>& recipes);

}  // namespace backstop::cli
