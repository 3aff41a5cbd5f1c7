// The one check of a value against its parameter, for recipes, `--set` and manifests alike.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

#include "host/schema/parameter.hpp"

namespace backstop::schema {

struct Problem {
  std::string message;  ///< lower case, no final stop
  std::string hint;     ///< may be empty
};
/// Receives a problem and the node that has it.
using Report = std::function<void(const toml::node&, Problem)>;

/// One element, the value as `parameter` has it (a float is a float even where an integer was
/// written); none after reporting what is wrong. `name` is what messages call the key. Of a
/// scheduler's or an optimizer's value this checks only that it is a table.
toml::array check_value(const toml::node& value, const Parameter& parameter,
                        const std::string& name, const Report& report);

/// "`seed` must be an integer, got "a"".
std::string mismatch(std::string_view name, std::string_view expected, const toml::node& value);

/// "unknown key `widht` in [model]", with the nearest known key as a hint. `where` may be empty.
Problem unknown_key(std::string_view key, std::string_view where,
                    const std::vector<std::string>& known);

}  // namespace backstop::schema
