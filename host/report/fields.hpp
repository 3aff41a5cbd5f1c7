// Reading results.json and events, where a key may be missing or null.
#pragma once

#include <optional>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace backstop::report {

/// The number under `key`; nothing where it is missing, null or not finite.
std::optional<double> number_in(const nlohmann::json& object, std::string_view key);
/// One level down: the object under `section`, empty where it is missing or null.
const nlohmann::json& section_of(const nlohmann::json& object, std::string_view section);

}  // namespace backstop::report
