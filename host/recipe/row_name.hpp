// Names of rows: what they may hold, so that every one can be seen, told from the others, and be a
// file's name.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace backstop::recipe {

/// Longest name of a row or a run, in bytes: file systems allow 255, which must hold an extension.
inline constexpr std::size_t kLongestName = 200;

/// Why `name`, which is UTF-8, cannot name a row; none when it can.
std::optional<std::string> problem_of_name(std::string_view name);

}  // namespace backstop::recipe
