#include "host/report/fields.hpp"

#include <cmath>

#include <nlohmann/json.hpp>

namespace backstop::report {

std::optional<double> number_in(const nlohmann::json& object, std::string_view key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  const auto number = found->get<double>();
  return std::isfinite(number) ? std::optional(number) : std::nullopt;
}

const nlohmann::json& section_of(const nlohmann::json& object, std::string_view section) {
  static const nlohmann::json kEmpty = nlohmann::json::object();
  const auto found = object.find(section);
  return found == object.end() || found->is_null() ? kEmpty : *found;
}

}  // namespace backstop::report
