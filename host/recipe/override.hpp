// Changes to a recipe before it is checked: `--set KEY=VALUE`, and the values of [matrix].
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

#include "host/schema/check_value.hpp"

namespace backstop::recipe {

/// The keys that lead to a value; indices of arrays are text too: "defense", "0", "epochs".
using Path = std::vector<std::string>;

/// What was changed: messages and defaults depend on it.
struct Changes {
  std::set<Path> keys;     ///< every key that was given a value
  std::set<Path> swapped;  ///< tables whose `plugin` was replaced by a different one
};

/// Dotted keys with TOML's quoting: `expect."no defense".attack_success_rate.maximum`.
std::optional<Path> parse_path(std::string_view text);
/// The inverse.
std::string path_text(const Path& path);

/// Moves `value` to its place in `recipe`, creates missing tables on the way, and notes the change.
/// Returns what is wrong when the path leads nowhere.
std::optional<schema::Problem> set_value(toml::table& recipe, const Path& path, toml::node&& value,
                                         Changes& changes);

/// One `--set`. Diagnostics name its `label` instead of a file.
struct Override {
  std::string label;  ///< see label_of()
  Path path;
  std::string value;  ///< as TOML

  /// "--set KEY=VALUE", the beginning of it when it is long.
  static std::string label_of(std::string_view text);
  /// Nothing, and a `problem`, when the text is not an override. Never throws.
  static std::optional<Override> parse(const std::string& text, schema::Problem& problem);
  std::optional<schema::Problem> apply(toml::table& recipe, Changes& changes) const;
};

inline constexpr std::string_view kOverrideLabel = "--set ";

}  // namespace backstop::recipe
