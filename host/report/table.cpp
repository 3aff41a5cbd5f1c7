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

#include "host/base/text.hpp"
#include "host/report/fields.hpp"

namespace backstop::report {
namespace {

std::string share(std::optional<double> value) {
  return value ? base::fixed(*value, 3) : "-";
}

std::string count(std::optional<double> value) {
  return value ? base::grouped(std::llround(*value)) : "-";
}

std::string time(std::optional<double> seconds) {
  return seconds ? base::duration(*seconds) : "-";
}

std::string memory(std::optional<double> bytes) {
  return bytes ? base::grouped(std::llround(*bytes / 1e6)) + " MB" : "-";
}

/// What the defender was given: "2,500 clean", "50,000 training", or both.
std::string images_given(const nlohmann::json& row) {
  const auto& given = section_of(row, "given");
  std::string text;
  for (const char* kind : {"clean", "training"}) {
    const auto images = number_in(given, (std::string(kind) + "_images").c_str());
    if (!images || *images == 0) continue;
    text += (text.empty() ? "" : " + ") + count(images) + ' ' + kind;
  }
  return text.empty() ? "-" : text;
}

/// Where the column is that says so: after the metrics.
constexpr std::size_t kImagesGivenColumn = 5;

/// A column of numbers, and which of them are better.
struct Column {
  const char* header;
  const char* section;
  const char* key;
  std::string (*text)(std::optional<double>);
  bool higher_is_better;
};

/// Processor time is that of the GPU where there is one.
std::vector<Column> columns_of(const nlohmann::json& rows) {
  const bool gpu = std::any_of(rows.begin(), rows.end(), [](const nlohmann::json& row) {
    return number_in(section_of(row, "cost"), "gpu_seconds").value_or(0) > 0;
  });
  return {
      {"clean accuracy", "metrics", "clean_accuracy", share, true},
      {"attack success", "metrics", "attack_success_rate", share, false},
      {"attack success (all)", "metrics", "attack_success_rate_all", share, false},
      {"robust accuracy", "metrics", "robust_accuracy", share, true},
      {"wall time", "cost", "wall_seconds", time, false},
      {gpu ? "GPU time" : "CPU time", "cost", gpu ? "gpu_seconds" : "cpu_seconds", time, false},
      {"samples seen", "cost", "samples_seen", count, false},
      {"peak memory", "cost", "peak_memory_bytes", memory, false},
  };
}

/// Of the numbers of the defenses, which are all rows but the first; NaN where there is none.
double best_of(const nlohmann::json& rows, const Column& column) {
  double best = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 1; i < rows.size(); ++i)
    if (const auto value = number_in(section_of(rows[i], column.section), column.key))
      best = column.higher_is_better ? std::fmax(best, *value) : std::fmin(best, *value);
  return best;
}

std::vector<std::string> definitions(const nlohmann::json& counts) {
  const auto n = [&](const char* key) { return "(n = " + count(number_in(counts, key)) + ")"; };
  return {
      "attack success: triggered test images that go to their target, target-class images "
      "excluded " +
          n("triggered") + "; (all): with them " + n("triggered_all"),
      "clean accuracy: correct clean test images " + n("clean") +
          "; robust accuracy: triggered images that still go to their true label",
      "time: without evaluation; memory: resident set of the whole process"};
}

/// "anomaly_index 5.31, flagged_classes 1"
std::string figures(const nlohmann::json& extra) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << std::setprecision(4);
  for (const auto& [key, value] : extra.items())
    if (value.is_number())
      text << (text.tellp() > 0 ? ", " : "") << key << ' ' << value.get<double>();
  return text.str();
}

/// Of a model with other classes than the attacker's: which class the trigger leads to.
std::string attack_class(const nlohmann::json& row) {
  const auto& metrics = section_of(row, "metrics");
  const auto favourite = number_in(metrics, "attack_class");
  if (!favourite) return "";
  return row.at("name").get<std::string>() + ": of the triggered images " +
         share(number_in(metrics, "attack_success_rate")) + " go to class " +
         base::fixed(*favourite, 0) + " (" + row.value("attack_class_name", "?") +
         "), of the clean ones " + share(number_in(metrics, "attack_class_clean_share"));
}

/// Below definitions() of the first row, when the others are measured differently.
std::vector<std::string> definitions_of_transfer(const nlohmann::json& rows) {
  const auto other = std::find_if(rows.begin(), rows.end(), [](const nlohmann::json& row) {
    return !attack_class(row).empty();
  });
  if (other == rows.end()) return {};
  return {"all that is said of \"no defense\", on " + rows[0].value("measured_on", "?") +
              "; the other rows, on " + other->value("measured_on", "?") + ":",
          "attack success: triggered test images that go to the class that most of them go to, of "
          "all (n = " +
              count(number_in(section_of(*other, "counts"), "triggered_all")) +
              "); below is how many clean images go there as well"};
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
    line[0] = row.at("name").get<std::string>();
    for (const auto& point : section_of(row, "by_epoch")) {
      const auto column = shown.find(point.at("epoch").get<std::int64_t>());
      if (column == shown.end()) continue;
      line[1 + static_cast<std::size_t>(std::distance(shown.begin(), column))] =
          share(number_in(point, "clean_accuracy")) + " " +
          share(number_in(point, "attack_success_rate"));
    }
  }
  return lines;
}

std::string expectation(const nlohmann::json& entry) {
  const auto minimum = number_in(entry, "minimum");
  const auto maximum = number_in(entry, "maximum");
  const auto value = number_in(entry, "value");
  std::string text = entry.at("row").get<std::string>() + ": " +
                     entry.at("metric").get<std::string>() + " is " +
                     (value ? base::fixed(*value, 4) : "not known") + ", expected";
  if (minimum) text += " at least " + base::shortest(*minimum);
  if (minimum && maximum) text += " and";
  if (maximum) text += " at most " + base::shortest(*maximum);
  return text;
}

}  // namespace

std::string trigger_text(const nlohmann::json& row) {
  const auto& trigger = section_of(row, "trigger");
  const auto psnr = number_in(trigger, "psnr");
  const auto ssim = number_in(trigger, "ssim");
  if (!ssim) return "";
  if (!psnr) return "changes no test image";
  return "PSNR " + base::fixed(*psnr, 1) + " dB, SSIM " + base::fixed(*ssim, 3) +
         " (means of the test images)";
}

ResultTable lay_out_results(const nlohmann::json& results) {
  ResultTable table;
  const auto& rows = results.at("rows");
  const std::vector<Column> columns = columns_of(rows);
  table.header = {"defense"};
  std::vector<double> best;
  for (const auto& column : columns) {
    table.header.emplace_back(column.header);
    best.push_back(best_of(rows, column));
  }
  table.header.insert(table.header.begin() + kImagesGivenColumn, "images given");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ResultTable::Row line{{rows[i].at("name").get<std::string>()}, {false}};
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const auto value = number_in(section_of(rows[i], columns[c].section), columns[c].key);
      line.cells.push_back(columns[c].text(value));
      line.best.push_back(i > 0 && value && *value == best[c]);
    }
    line.cells.insert(line.cells.begin() + kImagesGivenColumn, images_given(rows[i]));
    line.best.insert(line.best.begin() + kImagesGivenColumn, false);
    table.rows.push_back(std::move(line));
    if (const auto& detection = section_of(rows[i], "detection"); !detection.empty())
      table.findings.push_back(
          rows[i].at("name").get<std::string>() + " flagged " +
          count(number_in(detection, "flagged")) + " training images: true positive rate " +
          share(number_in(detection, "true_positive_rate")) + ", false positive rate " +
          share(number_in(detection, "false_positive_rate")));
    if (const std::string text = attack_class(rows[i]); !text.empty())
      table.findings.push_back(text);
    if (const std::string text = figures(section_of(rows[i], "extra")); !text.empty())
      table.findings.push_back(rows[i].at("name").get<std::string>() + ": " + text);
  }
  if (!rows.empty()) {
    // An encoder is not measured before it is adapted.
    const auto measured = std::find_if(rows.begin(), rows.end(), [](const nlohmann::json& row) {
      return !section_of(row, "counts").empty();
    });
    if (measured != rows.end()) table.definitions = definitions(section_of(*measured, "counts"));
    if (const std::string text = trigger_text(rows[0]); !text.empty())
      table.definitions.push_back("trigger: " + text);
    for (auto& line : definitions_of_transfer(rows)) table.definitions.push_back(std::move(line));
  }
  table.curves = curves_of(rows);
  for (const auto& entry : section_of(results, "expectations"))
    table.expectations.push_back({entry.at("met").get<bool>(), expectation(entry)});
  return table;
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
  }
  std::string text = base::columns(rows, "lrrrrrrrrr");
  if (!table.definitions.empty()) text += '\n';
  for (const auto& line : table.definitions) text += line + '\n';
  if (!table.curves.empty()) {
    rows.clear();
    for (const auto& line : table.curves) {
      auto& cells = rows.emplace_back();
      for (const auto& cell : line) cells.push_back({cell});
    }
    text += "\nclean accuracy and attack success by epoch\n" +
            base::columns(rows, "l" + std::string(table.curves[0].size() - 1, 'r'));
  }
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
