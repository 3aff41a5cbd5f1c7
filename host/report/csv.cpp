#include "host/report/csv.hpp"

#include <algorithm>
#include <iterator>
#include <set>
#include <vector>

#include "host/base/text.hpp"
#include "host/report/fields.hpp"

namespace backstop::report {
namespace {

struct Column {
  const char* section;
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
  if (found->is_string()) return quoted(found->get<std::string>());
  if (found->is_number_float()) return base::shortest(found->get<double>());
  return found->dump();
}

std::vector<Column> columns_of(const nlohmann::json& results) {
  std::vector<Column> columns{
      {"given", "clean_images", "clean_images"},
      {"given", "training_images", "training_images"},
      {"metrics", "clean_accuracy", "clean_accuracy"},
      {"metrics", "attack_success_rate", "attack_success_rate"},
      {"metrics", "attack_success_rate_all", "attack_success_rate_all"},
      {"metrics", "robust_accuracy", "robust_accuracy"},
      {"metrics", "clean_accuracy_drop", "clean_accuracy_drop"},
      {"counts", "clean", "clean_test_images"},
      {"counts", "triggered", "triggered_test_images"},
      {"counts", "triggered_all", "triggered_test_images_all"},
      {"trigger", "psnr", "trigger_psnr"},
      {"trigger", "ssim", "trigger_ssim"},
      {"detection", "true_positive_rate", "true_positive_rate"},
      {"detection", "false_positive_rate", "false_positive_rate"},
      {"detection", "flagged", "flagged"},
      {"cost", "wall_seconds", "wall_seconds"},
      {"cost", "cpu_seconds", "cpu_seconds"},
      {"cost", "gpu_seconds", "gpu_seconds"},
      {"cost", "evaluation_seconds", "evaluation_seconds"},
      {"cost", "samples_seen", "samples_seen"},
      {"cost", "peak_memory_bytes", "peak_memory_bytes"},
  };
  std::set<std::string> extra;
  for (const auto& row : results.at("rows"))
    for (const auto& item : section_of(row, "extra").items()) extra.insert(item.key());
  std::transform(extra.begin(), extra.end(), std::back_inserter(columns),
                 [](const std::string& key) {
                   return Column{"extra", key, quoted(key)};
                 });
  return columns;
}

}  // namespace

std::string results_csv(const nlohmann::json& results) {
  const auto columns = columns_of(results);
  std::string text = "run,seed,defense,plugin";
  for (const auto& column : columns) text += ',' + column.header;
  text += '\n';
  const std::string run = field(results, "name") + ',' + field(results, "seed");
  for (const auto& row : results.at("rows")) {
    text += run + ',' + field(row, "name") + ',' + field(row, "plugin");
    for (const auto& column : columns)
      text += ',' + field(section_of(row, column.section), column.key);
    text += '\n';
  }
  return text;
}

}  // namespace backstop::report
