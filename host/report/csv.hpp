// results.csv: results.json's rows for spreadsheets and data frames.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// One line per row, every number in full; after the fixed columns one for each key that any row
/// has in `extra`. What a row does not have is left empty.
std::string results_csv(const nlohmann::json& results);

}  // namespace backstop::report
