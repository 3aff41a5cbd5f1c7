// The text of a recipe, which may come from a file, a pipe or a terminal.
#pragma once

#include <cstddef>
#include <string>

namespace backstop::recipe {

/// Longest recipe, in bytes; checking one takes seconds at most.
inline constexpr std::size_t kLongestRecipe = std::size_t{1} << 20;

/// At most kLongestRecipe bytes, and one more of a longer recipe. Waits for the writer of a pipe,
/// but not for somebody to open one. Throws HostError(usage).
std::string read_recipe(const std::string& file);

}  // namespace backstop::recipe
