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

std::vector<Column> columns_of(const nlohmann::json& results) {
  std::vector<Column> columns;
  for (const Metric& metric : metrics())
    if (!metric.csv.empty())
      columns.push_back({metric.section, std::string(metric.key), std::string(metric.csv)});
  std::set<std::string> extra;
  for (const auto& row : results.at("rows"))
    for (const auto& item : section_of(row, "extra").items()) extra.insert(item.key());
  std::transform(extra.begin(), extra.end(), std::back_inserter(columns),
                 [](const std::string& key) {
                   return Column{"extra", key, text_cell(key)};
                 });
  return columns;
}

}  // namespace

std::string text_cell(const std::string& text) {
  constexpr std::string_view kFormula = "=+-@\t\r";
  const bool runs = !text.empty() && kFormula.find(text[0]) != std::string_view::npos;
  return quoted(base::valid_utf8(runs ? "'" + text : text));
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

}  // namespace backstop::report
