// report.html: one self-contained page, apart from the pictures beside it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

struct ReportContent {
  nlohmann::json results;             ///< results.json
  nlohmann::json environment;         ///< run.json
  std::string metrics;                ///< metrics.jsonl: `epoch` events, one a line
  std::string recipe;                 ///< recipe.toml
  std::vector<std::string> triggers;  ///< NAME of each triggers/NAME.png
  std::vector<std::string> pictures;  ///< NAME of each pictures/NAME.png
};

/// A line of `metrics` that is not complete JSON (the run was killed while writing it) is skipped.
std::string html_report(const ReportContent& content);

std::string html_escape(std::string_view text);

}  // namespace backstop::report
