#include "host/report/table.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "host/report/text.hpp"

namespace backstop::host {
namespace {

std::string share(std::optional<double> value) {
  return value ? fixed(*value, 3) : "-";
}

std::string count(std::optional<double> value) {
  return value ? grouped(std::llround(*value)) : "-";
}

std::vector<std::string> cells(const nlohmann::json& row) {
  const auto& metrics = section_of(row, "metrics");
  const auto& cost = section_of(row, "cost");
  const auto seconds = number_in(cost, "wall_seconds");
  return {row.at("name").get<std::string>(),
          share(number_in(metrics, "clean_accuracy")),
          share(number_in(metrics, "attack_success_rate")),
          share(number_in(metrics, "attack_success_rate_all")),
          share(number_in(metrics, "robust_accuracy")),
          count(number_in(section_of(row, "given"), "clean_images")),
          seconds ? duration(*seconds) : "-",
          count(number_in(cost, "samples_seen"))};
}

std::vector<std::string> definitions(const nlohmann::json& counts) {
  const auto n = [&](const char* key) { return "(n = " + count(number_in(counts, key)) + ")"; };
  return {
      "attack success: triggered test images that go to their target, target-class images "
      "excluded " +
          n("triggered") + "; (all): with them " + n("triggered_all"),
      "clean accuracy: correct clean test images " + n("clean") +
          "; robust accuracy: triggered images that still go to their true label; time: without "
          "evaluation"};
}

std::string expectation(const nlohmann::json& entry) {
  const auto minimum = number_in(entry, "minimum");
  const auto maximum = number_in(entry, "maximum");
  const auto value = number_in(entry, "value");
  std::string text = entry.at("row").get<std::string>() + ": " +
                     entry.at("metric").get<std::string>() + " is " +
                     (value ? fixed(*value, 4) : "not known") + ", expected";
  if (minimum) text += " at least " + shortest(*minimum);
  if (minimum && maximum) text += " and";
  if (maximum) text += " at most " + shortest(*maximum);
  return text;
}

}  // namespace

std::string trigger_text(const nlohmann::json& row) {
  const auto& trigger = section_of(row, "trigger");
  const auto psnr = number_in(trigger, "psnr");
  const auto ssim = number_in(trigger, "ssim");
  if (!ssim) return "";
  if (!psnr) return "changes no test image";
  return "PSNR " + fixed(*psnr, 1) + " dB, SSIM " + fixed(*ssim, 3) + " (means of the test images)";
}

ResultTable lay_out_results(const nlohmann::json& results) {
  ResultTable table;
  table.header = {"defense",         "clean accuracy", "attack success", "attack success (all)",
                  "robust accuracy", "clean images",   "time",           "samples"};
  const auto& rows = results.at("rows");
  double lowest = std::numeric_limits<double>::infinity();
  for (std::size_t i = 1; i < rows.size(); ++i)
    if (const auto rate = number_in(section_of(rows[i], "metrics"), "attack_success_rate"))
      lowest = std::min(lowest, *rate);

  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto rate = number_in(section_of(rows[i], "metrics"), "attack_success_rate");
    table.rows.push_back({cells(rows[i]), i > 0 && rate && *rate <= lowest});
    if (const auto& detection = section_of(rows[i], "detection"); !detection.empty())
      table.detections.push_back(
          rows[i].at("name").get<std::string>() + " flagged " +
          count(number_in(detection, "flagged")) + " training images: true positive rate " +
          share(number_in(detection, "true_positive_rate")) + ", false positive rate " +
          share(number_in(detection, "false_positive_rate")));
  }
  if (!rows.empty()) {
    table.definitions = definitions(section_of(rows[0], "counts"));
    if (const std::string text = trigger_text(rows[0]); !text.empty())
      table.definitions.push_back("trigger: " + text);
  }
  for (const auto& entry : section_of(results, "expectations"))
    table.expectations.push_back({entry.at("met").get<bool>(), expectation(entry)});
  return table;
}

std::string result_table(const nlohmann::json& results, bool color) {
  const ResultTable table = lay_out_results(results);
  const auto style = [color](std::string_view ansi) { return color ? ansi : std::string_view{}; };

  std::vector<std::vector<Cell>> rows(2);
  for (const auto& name : table.header) {
    const auto space = name.find(' ');
    const bool two_lines = space != std::string::npos;
    rows[0].push_back({two_lines ? name.substr(0, space) : ""});
    rows[1].push_back({two_lines ? name.substr(space + 1) : name});
  }
  for (const auto& row : table.rows) {
    auto& line = rows.emplace_back();
    for (const auto& cell : row.cells) line.push_back({cell, style(row.best ? kBold : "")});
  }
  std::string text = columns(rows, "lrrrrrrr");
  if (!table.definitions.empty()) text += '\n';
  for (const auto& line : table.definitions) text += line + '\n';
  for (const auto& line : table.detections) text += printable(line) + '\n';
  if (table.expectations.empty()) return text;

  rows.clear();
  for (const auto& entry : table.expectations)
    rows.push_back(
        {{entry.met ? "met" : "not met", style(entry.met ? kGreen : kRed)}, {entry.text}});
  return text + "\nexpectations\n" + columns(rows, "ll", "  ");
}

}  // namespace backstop::host
