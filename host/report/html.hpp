// report.html: one page that says everything about a run.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

struct Picture {
  std::string name;  ///< NAME of NAME.png
  std::string png;   ///< the file
};

struct ReportContent {
  nlohmann::json results;         ///< results.json
  nlohmann::json environment;     ///< run.json
  std::string metrics;            ///< metrics.jsonl: `epoch` events, one a line
  std::string recipe;             ///< recipe.toml
  std::vector<Picture> triggers;  ///< triggers/
  std::vector<Picture> pictures;  ///< pictures/
};

/// A line of `metrics` that is not complete JSON (the run was killed while writing it) is skipped.
std::string html_report(const ReportContent& content);

}  // namespace backstop::report
