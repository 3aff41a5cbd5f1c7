// Reading results.json and events, where a key may be missing or null.
#pragma once

#include <optional>

#include <nlohmann/json_fwd.hpp>

namespace backstop::report {

/// The number under `key`; nothing where it is missing or null.
std::optional<double> number_in(const nlohmann::json& object, const char* key);
/// One level down: the object under `section`, empty where it is missing or null.
const nlohmann::json& section_of(const nlohmann::json& object, const char* section);

}  // namespace backstop::report
