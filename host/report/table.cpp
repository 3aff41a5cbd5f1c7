#include "host/report/table.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <locale>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/audit.hpp"
#include "host/report/detectors.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

std::string share(std::optional<double> value) {
  return value ? base::fixed(*value, 3) : "-";
}

std::string count(std::optional<double> value) {
  return value ? base::grouped(std::llround(*value)) : "-";
}

std::string name_of(const nlohmann::json& row) {
  return row.at("name").get<std::string>();
}

/// What the defender was given: "2,500 clean", "50,000 training", or both.
std::string images_given(const nlohmann::json& row) {
  const auto& given = section_of(row, "given");
  std::string text;
  for (const char* kind : {"clean", "training"}) {
    const auto images = number_in(given, std::string(kind) + "_images");
    if (!images || *images == 0) continue;
    text += (text.empty() ? "" : " + ") + count(images) + ' ' + kind;
  }
  return text.empty() ? "-" : text;
}

/// Processor time is that of the GPU where there is one.
std::vector<const Metric*> columns_of(const nlohmann::json& rows) {
  const bool gpu = std::any_of(rows.begin(), rows.end(), [](const nlohmann::json& row) {
    return number_in(section_of(row, "cost"), "gpu_seconds").value_or(0) > 0;
  });
  auto columns = metrics_with(&Metric::in_table);
  // Nobody knows the trigger of a model from elsewhere.
  const auto any_has = [&](const char* key) {
    return std::any_of(rows.begin(), rows.end(), [key](const nlohmann::json& row) {
      return section_of(row, "metrics").contains(key);
    });
  };
  if (any_has("clean_accuracy") && !any_has("attack_success_rate"))
    std::erase_if(columns, [](const Metric* metric) { return metric->of_backdoor; });
  std::erase_if(columns, [gpu](const Metric* metric) {
    return metric->key == (gpu ? "cpu_seconds" : "gpu_seconds");
  });
  return columns;
}

/// The best value of the defenses, which are all rows but the first; a model that a warning marks
/// does not compete, and nobody removes best a backdoor that is not there. NaN where there is none.
double best_of(const nlohmann::json& rows, const Metric& metric) {
  double best = std::numeric_limits<double>::quiet_NaN();
  if (metric.of_backdoor && !objection_to_attack(rows).empty()) return best;
  for (std::size_t i = 1; i < rows.size(); ++i)
    if (const auto value = value_of(rows[i], metric); value && warning_of(rows[i]).empty())
      best = metric.better == Better::higher ? std::fmax(best, *value) : std::fmin(best, *value);
  return best;
}

std::vector<std::string> definitions(const nlohmann::json& counts) {
  std::vector<std::string> lines;
  for (const Metric* metric : metrics_with(&Metric::in_table))
    if (!metric->definition.empty() && number_in(counts, metric->images))
      lines.push_back(fmt::format("{}: {} (n = {})", metric->title, metric->definition,
                                  count(number_in(counts, metric->images))));
  lines.emplace_back("time excludes evaluation; memory is the resident set of the whole process");
  return lines;
}

/// "anomaly_index 5.31, flagged_classes 1"; a dash for one that was not finite.
std::string figures(const nlohmann::json& extra) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << std::setprecision(4);
  for (const auto& [key, value] : extra.items()) {
    text << (text.tellp() > 0 ? ", " : "") << key << ' ';
    if (const auto number = number_in(extra, key))
      text << *number;
    else
      text << '-';
  }
  return text.str();
}

/// Where the attacker's target is not a class of the dataset: the class that the trigger leads to.
std::string attack_class(const nlohmann::json& row) {
  const auto& metrics = section_of(row, "metrics");
  const auto number = number_in(metrics, "attack_class");
  if (!number) return "";
  return fmt::format(
      "{}: {} of the triggered images and {} of the clean images are classified as class {:.0f} "
      "({})",
      name_of(row), share(number_in(metrics, "attack_success_rate")),
      share(number_in(metrics, "attack_class_clean_share")), *number,
      row.value("attack_class_name", "?"));
}

/// Below definitions() of the first row, when the others are measured differently.
std::vector<std::string> definitions_of_transfer(const nlohmann::json& rows) {
  const auto other = std::find_if(rows.begin(), rows.end(), [](const nlohmann::json& row) {
    return !attack_class(row).empty();
  });
  if (other == rows.end()) return {};
  return {fmt::format("these definitions hold for \"no defense\", measured on {}; the other rows "
                      "are measured on {}, where",
                      rows[0].value("measured_on", "?"), other->value("measured_on", "?")),
          fmt::format("attack success: triggered test images classified as the class that most of "
                      "them are classified as (n = {}); the share of clean images in that class is "
                      "given below",
                      count(number_in(section_of(*other, "counts"), "triggered_all")))};
}

std::string detection_text(const nlohmann::json& row) {
  const auto& detection = section_of(row, "detection");
  std::string text;
  if (detection.contains("flagged"))
    text =
        fmt::format("{} flagged {} training images: true positive rate {}, false positive rate {}",
                    name_of(row), count(number_in(detection, "flagged")),
                    share(number_in(detection, "true_positive_rate")),
                    share(number_in(detection, "false_positive_rate")));
  if (detection.contains("auroc"))
    text += fmt::format(
        "{}AUROC {}", text.empty() ? name_of(row) + " scored training images: " : "; its scores: ",
        share(number_in(detection, "auroc")));
  return text;
}

/// At most kCurveColumns of the epochs: all, or the first, the last, and others evenly spread on a
/// logarithmic scale.
constexpr std::size_t kCurveColumns = 9;
std::set<std::int64_t> shown_epochs(const std::set<std::int64_t>& all) {
  if (all.size() <= kCurveColumns) return all;
  const std::vector<std::int64_t> epochs(all.begin(), all.end());
  std::set<std::int64_t> shown{epochs.front(), epochs.back()};
  const auto last = static_cast<double>(epochs.size() - 1);
  for (std::size_t i = 0; i + 2 < kCurveColumns; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(kCurveColumns - 2);
    shown.insert(epochs[static_cast<std::size_t>(std::lround(std::pow(last, exponent)))]);
  }
  return shown;
}

/// "0.912 1.000"
std::string values_at(const nlohmann::json& point) {
  std::string text;
  for (const Metric* metric : metrics_with(&Metric::by_epoch))
    if (point.contains(metric->key))
      text += (text.empty() ? "" : " ") + text_of(*metric, number_in(point, metric->key));
  return text;
}

std::vector<std::vector<std::string>> curves_of(const nlohmann::json& rows) {
  std::set<std::int64_t> all;
  for (const auto& row : rows)
    for (const auto& point : section_of(row, "by_epoch"))
      all.insert(point.at("epoch").get<std::int64_t>());
  if (all.size() < 3) return {};  // before and after: the table above has it
  const auto shown = shown_epochs(all);
  std::vector<std::vector<std::string>> lines(1, {"epoch"});
  for (const auto epoch : shown) lines[0].push_back(std::to_string(epoch));
  for (const auto& row : rows) {
    if (section_of(row, "by_epoch").size() < 2) continue;
    auto& line = lines.emplace_back(1 + shown.size());
    line[0] = name_of(row);
    for (const auto& point : section_of(row, "by_epoch")) {
      const auto column = shown.find(point.at("epoch").get<std::int64_t>());
      if (column == shown.end()) continue;
      line[1 + static_cast<std::size_t>(std::distance(shown.begin(), column))] = values_at(point);
    }
  }
  return lines;
}

/// "clean accuracy and attack success by epoch", of what the rows have.
std::string curves_title(const nlohmann::json& rows) {
  const auto has = [&](const Metric& metric) {
    return std::any_of(rows.begin(), rows.end(), [&](const nlohmann::json& row) {
      const auto& points = section_of(row, "by_epoch");
      return std::any_of(points.begin(), points.end(),
                         [&](const nlohmann::json& point) { return point.contains(metric.key); });
    });
  };
  std::string names;
  for (const Metric* metric : metrics_with(&Metric::by_epoch))
    if (has(*metric)) names += (names.empty() ? "" : " and ") + std::string(metric->title);
  return names + " by epoch";
}

/// "cat, dog"; "none".
std::string class_list(const nlohmann::json& names) {
  return names.empty() ? "none" : base::list_of(names.get<std::vector<std::string>>());
}

std::string expectation(const nlohmann::json& entry) {
  if (entry.contains("classes")) {
    const std::string reason = entry.value("reason", "");
    return fmt::format("{}: suspects {}, expected {}{}", entry.at("row").get<std::string>(),
                       class_list(entry.at("value")), class_list(entry.at("classes")),
                       reason.empty() ? "" : " (" + reason + ")");
  }
  const auto minimum = number_in(entry, "minimum");
  const auto maximum = number_in(entry, "maximum");
  const auto value = number_in(entry, "value");
  std::string text = fmt::format("{}: {} is {}, expected", entry.at("row").get<std::string>(),
                                 entry.at("metric").get<std::string>(),
                                 value ? base::fixed(*value, 4) : "unknown");
  if (minimum) text += " at least " + base::shortest(*minimum);
  if (minimum && maximum) text += " and";
  if (maximum) text += " at most " + base::shortest(*maximum);
  if (const auto reason = entry.find("reason"); reason != entry.end())
    text += " (" + reason->get<std::string>() + ")";
  return text;
}

ResultTable::Row cells_of(const nlohmann::json& row, const std::vector<const Metric*>& columns,
                          const std::vector<double>& best) {
  ResultTable::Row line;
  line.marked = !warning_of(row).empty();
  line.cells = {name_of(row) + (line.marked ? " (!)" : "")};
  line.best = {false};
  line.values = {std::nullopt};
  for (std::size_t c = 0; c < columns.size(); ++c) {
    const auto value = value_of(row, *columns[c]);
    line.cells.push_back(text_of(*columns[c], value));
    line.values.push_back(value);
    line.best.push_back(!line.marked && value && *value == best[c]);
  }
  return line;
}

}  // namespace

std::string trigger_text(const nlohmann::json& row) {
  const auto& trigger = section_of(row, "trigger");
  const auto psnr = number_in(trigger, "psnr");
  const auto ssim = number_in(trigger, "ssim");
  if (!ssim) return "";
  if (!psnr) return "changes no test image";
  return fmt::format("PSNR {} dB, SSIM {} (means over the test images)", base::fixed(*psnr, 1),
                     share(ssim));
}

ResultTable lay_out_results(const nlohmann::json& results) {
  ResultTable table;
  const auto& rows = section_of(results, "rows");
  const auto columns = columns_of(rows);
  table.header = {"defense"};
  table.metrics = {nullptr};
  std::vector<double> best;
  for (const Metric* metric : columns) {
    table.header.emplace_back(metric->title);
    table.metrics.push_back(metric);
    best.push_back(best_of(rows, *metric));
  }
  // What was given stands between what came of it and what it cost.
  const auto given = 1 + std::count_if(columns.begin(), columns.end(), [](const Metric* metric) {
                       return metric->section == "metrics";
                     });
  table.header.insert(table.header.begin() + given, "images given");
  table.metrics.insert(table.metrics.begin() + given, nullptr);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ResultTable::Row line = cells_of(rows[i], columns, best);
    if (i == 0) line.best.assign(line.best.size(), false);
    line.cells.insert(line.cells.begin() + given, images_given(rows[i]));
    line.best.insert(line.best.begin() + given, false);
    line.values.insert(line.values.begin() + given, std::nullopt);
    if (line.marked) table.warnings.push_back(name_of(rows[i]) + ": " + warning_of(rows[i]));
    table.rows.push_back(std::move(line));
    for (const auto& text : {detection_text(rows[i]), attack_class(rows[i])})
      if (!text.empty()) table.findings.push_back(text);
    if (const std::string text = figures(section_of(rows[i], "extra")); !text.empty())
      table.findings.push_back(name_of(rows[i]) + ": " + text);
  }
  for (const auto& detector : section_of(results, "detectors")) {
    if (auto sentences = verdict_sentences(detector); !sentences.empty())
      table.detectors.push_back({detector.value("name", ""), std::move(sentences),
                                 is_suspicious(detector), class_table(detector)});
    if (const std::string text = figures(section_of(detector, "extra")); !text.empty())
      table.findings.push_back(detector.value("name", "") + ": " + text);
  }
  table.inputs = input_table(results);
  if (!table.inputs.empty()) table.input_definitions = input_definitions();
  if (!rows.empty()) {
    // An encoder is not measured before it is adapted.
    const auto measured = std::find_if(rows.begin(), rows.end(), [](const nlohmann::json& row) {
      return number_in(section_of(row, "counts"), "clean").has_value();
    });
    if (measured != rows.end()) table.definitions = definitions(section_of(*measured, "counts"));
    if (const std::string text = trigger_text(rows[0]); !text.empty())
      table.definitions.push_back("trigger: " + text);
    for (auto& line : definitions_of_transfer(rows)) table.definitions.push_back(std::move(line));
  }
  if (const std::string precision = results.value("precision", ""); !precision.empty())
    table.definitions.push_back("computed in " + precision);
  table.curves = curves_of(rows);
  table.curves_title = curves_title(rows);
  for (const auto& entry : section_of(results, "expectations"))
    table.expectations.push_back({entry.at("met").get<bool>(), expectation(entry)});
  return table;
}

std::string text_columns(const std::vector<std::vector<std::string>>& lines) {
  if (lines.empty()) return "";
  std::vector<std::vector<base::Cell>> rows;
  for (const auto& line : lines) {
    auto& cells = rows.emplace_back();
    for (const auto& cell : line) cells.push_back({cell});
  }
  return base::columns(rows, "l" + std::string(lines[0].size() - 1, 'r'));
}

std::string result_table(const nlohmann::json& results, bool color) {
  const ResultTable table = lay_out_results(results);
  const auto style = [color](std::string_view ansi) { return color ? ansi : std::string_view{}; };

  std::vector<std::vector<base::Cell>> rows(2);
  for (const auto& name : table.header) {
    const auto space = name.find(' ');
    const bool two_lines = space != std::string::npos;
    rows[0].push_back({two_lines ? name.substr(0, space) : ""});
    rows[1].push_back({two_lines ? name.substr(space + 1) : name});
  }
  for (const auto& row : table.rows) {
    auto& line = rows.emplace_back();
    for (std::size_t c = 0; c < row.cells.size(); ++c)
      line.push_back({row.cells[c], style(row.best[c] ? base::kBold : "")});
    if (row.marked) line[0].style = style(base::kYellow);
  }
  std::string text = base::columns(rows, "l" + std::string(table.header.size() - 1, 'r'));
  if (!table.warnings.empty()) text += '\n';
  for (const auto& line : table.warnings)
    text += fmt::format("{}warning:{} {}\n", style(base::kYellow), style(base::kReset),
                        base::printable(line));
  if (!table.definitions.empty()) text += '\n';
  for (const auto& line : table.definitions) text += line + '\n';
  if (!table.curves.empty()) text += '\n' + table.curves_title + '\n' + text_columns(table.curves);
  text += audit_table(results, color);
  for (const auto& detector : table.detectors) {
    text += '\n';
    for (const auto& line : detector.sentences)
      text += fmt::format("{}{}{}\n", style(detector.suspicious ? base::kYellow : ""),
                          base::printable(line), style(detector.suspicious ? base::kReset : ""));
    text += text_columns(detector.classes);
  }
  if (!table.inputs.empty()) text += '\n' + text_columns(table.inputs);
  for (const auto& line : table.input_definitions) text += line + '\n';
  if (!table.findings.empty()) text += '\n';
  for (const auto& line : table.findings) text += base::printable(line) + '\n';
  if (table.expectations.empty()) return text;

  rows.clear();
  for (const auto& entry : table.expectations)
    rows.push_back({{entry.met ? "met" : "not met", style(entry.met ? base::kGreen : base::kRed)},
                    {entry.text}});
  return text + "\nexpectations\n" + base::columns(rows, "ll", "  ");
}

}  // namespace backstop::report
