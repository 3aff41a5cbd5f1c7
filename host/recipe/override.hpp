// Changes to a recipe before it is checked: `--set KEY=VALUE`, and the values of [matrix].
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

#include "host/recipe/diagnostic.hpp"

namespace backstop::recipe {

/// The keys that lead to a value, indices of arrays among them as text: "defense", "0", "epochs".
using Path = std::vector<std::string>;

/// What was changed, for messages and for what follows from a change.
struct Changes {
  std::set<Path> keys;     ///< every key that was given a value
  std::set<Path> swapped;  ///< tables whose `plugin` was replaced by another
};

struct Problem {
  std::string message;
  std::string hint;
};

/// Dotted keys with TOML's quoting: `expect."no defense".attack_success_rate.maximum`.
std::optional<Path> parse_path(std::string_view text);

/// Moves `value` to its place in `recipe`, makes the tables that are missing on the way, and notes
/// the change. Says what is wrong when the path leads nowhere.
std::optional<Problem> set_value(toml::table& recipe, const Path& path, toml::node&& value,
                                 Changes& changes);

/// One `--set`. The source of its nodes is `label`, which stands for the file in diagnostics.
struct Override {
  std::string label;  ///< "--set KEY=VALUE"
  Path path;
  std::string value;  ///< as TOML

  /// Throws nothing: a text that is no override is a problem.
  static std::optional<Override> parse(const std::string& text, Problem& problem);
  std::optional<Problem> apply(toml::table& recipe, Changes& changes) const;
};

inline constexpr std::string_view kOverrideLabel = "--set ";

}  // namespace backstop::recipe
