#include "host/schema/parameter.hpp"

namespace backstop::schema {

const std::vector<std::string>& parameter_type_names() {
  static const std::vector<std::string> kNames = {"boolean", "integer", "float",     "string",
                                                  "choice",  "path",    "scheduler", "optimizer"};
  return kNames;
}

std::string_view to_string(ParameterType type) {
  return parameter_type_names()[static_cast<std::size_t>(type)];
}

}  // namespace backstop::schema
