// What the value of a key may be. Manifests describe the parameters of their plugins this way, and
// the host its own keys.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

namespace backstop::schema {

enum class ParameterType {
  boolean,
  integer,
  floating,  ///< "float"; an integer is accepted too
  string,
  choice,
  path,
  scheduler,  ///< a table { plugin = "...", <the scheduler's parameters> }
  optimizer,  ///< a table { name = "sgd" | "adam" | "adamw", ... }
};
std::string_view to_string(ParameterType type);
/// Every type's name, in the order of the enumeration.
const std::vector<std::string>& parameter_type_names();

struct Parameter {
  std::string key = {};  ///< [a-z][a-z0-9_]*
  ParameterType type = ParameterType::string;
  bool list = false;        ///< an array of the type
  bool optional = false;    ///< may be left out, and then has no value
  bool must_exist = false;  ///< path: the file or folder must be there when a run starts
  /// One element, the default, or none; without a default the key is required unless optional. The
  /// default has the parameter's own type (a float is a float even where the author wrote an
  /// integer), is within its range and is one of its choices. What a scheduler's table holds beyond
  /// `plugin` is not checked.
  toml::array default_value = {};
  std::optional<double> minimum = {}, maximum = {};
  bool minimum_exclusive = false, maximum_exclusive = false;  ///< `exclusive_minimum = 0.0` in TOML
  std::vector<std::string> choices = {};
  std::string unit = {};
  std::string help = {};
};
using Parameters = std::vector<Parameter>;

}  // namespace backstop::schema
