#include "host/report/csv.hpp"

#include <algorithm>
#include <iterator>
#include <set>
#include <string_view>
#include <vector>

#include "host/base/text.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"

namespace backstop::report {
namespace {

struct Column {
  std::string_view section;
  std::string key;
  std::string header;
};

std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string result = "\"";
  for (const char c : text) result += c == '"' ? "\"\"" : std::string(1, c);
  return result + '"';
}

std::string field(const nlohmann::json& object, const std::string& key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  if (found->is_string()) return text_cell(found->get<std::string>());
  if (found->is_number_float()) return base::shortest(found->get<double>());
  return base::json_text(*found);
}

/// What the plugins of `rows` have recorded.
void add_extra(const nlohmann::json& rows, std::vector<Column>& columns) {
  std::set<std::string> extra;
  for (const auto& row : rows)
    for (const auto& item : section_of(row, "extra").items()) extra.insert(item.key());
  std::transform(extra.begin(), extra.end(), std::back_inserter(columns),
                 [](const std::string& key) {
                   return Column{"extra", key, text_cell(key)};
                 });
}

std::vector<Column> columns_of(const nlohmann::json& results) {
  std::vector<Column> columns;
  for (const Metric& metric : metrics())
    if (!metric.csv.empty())
      columns.push_back({metric.section, std::string(metric.key), std::string(metric.csv)});
  add_extra(section_of(results, "rows"), columns);
  return columns;
}

/// The classes that a detector suspects, in a cell.
std::string suspects(const nlohmann::json& detector) {
  std::vector<std::string> names;
  for (const auto& suspect : section_of(section_of(detector, "verdict"), "suspects"))
    names.push_back(suspect.value("class", ""));
  return names.empty() ? "" : text_cell(base::list_of(names));
}

}  // namespace

std::string text_cell(const std::string& text) {
  constexpr std::string_view kFormula = "=+-@\t\r";
  const bool runs = !text.empty() && kFormula.find(text[0]) != std::string_view::npos;
  return quoted(base::with_visible_controls(runs ? "'" + text : text));
}

std::string results_csv(const nlohmann::json& results) {
  const auto columns = columns_of(results);
  std::string text = "run,seed,defense,plugin";
  for (const auto& column : columns) text += ',' + column.header;
  text += ",warning\n";
  const std::string run = field(results, "name") + ',' + field(results, "seed");
  for (const auto& row : results.at("rows")) {
    text += run + ',' + field(row, "name") + ',' + field(row, "plugin");
    for (const auto& column : columns)
      text += ',' + field(section_of(row, column.section), column.key);
    text += ',' + field(row, "warning") + '\n';
  }
  return text;
}

std::string detectors_csv(const nlohmann::json& results) {
  std::vector<Column> columns = {{"given", "clean_images", "clean_images"},
                                 {"verdict", "score", "score"},
                                 {"verdict", "threshold", "score_threshold"},
                                 {"verdict", "suspicious", "suspicious"}};
  for (const Metric& metric : input_metrics())
    columns.push_back({metric.section, std::string(metric.key), std::string(metric.csv)});
  columns.insert(columns.end(), {{"inputs", "threshold", "input_threshold"},
                                 {"inputs", "clean", "clean_test_images"},
                                 {"inputs", "triggered", "triggered_test_images"},
                                 {"inputs", "successful", "successful_test_images"},
                                 {"cost", "wall_seconds", "wall_seconds"},
                                 {"cost", "cpu_seconds", "cpu_seconds"}});
  const nlohmann::json& detectors = section_of(results, "detectors");
  add_extra(detectors, columns);
  std::string text = "run,seed,detector,plugin";
  for (const auto& column : columns) text += ',' + column.header;
  text += ",suspects,error\n";
  const std::string run = field(results, "name") + ',' + field(results, "seed");
  for (const auto& detector : detectors) {
    text += run + ',' + field(detector, "name") + ',' + field(detector, "plugin");
    for (const auto& column : columns)
      text += ',' + field(section_of(detector, column.section), column.key);
    text += ',' + suspects(detector) + ',' + field(detector, "error") + '\n';
  }
  return text;
}

}  // namespace backstop::report
