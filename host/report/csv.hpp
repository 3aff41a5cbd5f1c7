// results.csv: results.json's rows for spreadsheets and data frames.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// One line per row, every number in full. The columns are those of the table of metrics, then one
/// for each key that any row has in `extra`, then `warning`. What a row lacks is left empty. Text that a
/// spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a carriage
/// return) begins with an apostrophe instead.
std::string results_csv(const nlohmann::json& results);

/// Text as a cell. Spreadsheets would run what begins like a formula; behind an apostrophe it is
/// text to them.
std::string text_cell(const std::string& text);

/// detectors.csv: a line for each detector of a run.
std::string detectors_csv(const nlohmann::json& results);

}  // namespace backstop::report
