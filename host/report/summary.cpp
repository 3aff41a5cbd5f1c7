#include "host/report/summary.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/detectors.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

struct Row {
  std::string name;
  std::vector<std::vector<double>> values;  ///< for each metric of the summary, of each run
  std::size_t collapsed = 0, failed = 0;    ///< runs whose numbers are not in `values`
  std::size_t no_backdoor = 0;              ///< whose numbers of the backdoor are not
};

/// What a detector said of the models of the runs.
struct Detector {
  std::string name;
  std::size_t runs = 0, suspicious = 0, no_verdict = 0;
  std::vector<double> scores;
};

struct Group {
  std::string name;
  std::size_t runs = 0;
  std::vector<Row> rows;
  std::vector<Detector> detectors;
};

template <typename Named>
Named& find_or_add(std::vector<Named>& all, const std::string& name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Named& one) { return one.name == name; });
  if (found != all.end()) return *found;
  all.emplace_back().name = name;
  return all.back();
}

/// "(3)" or "(1 of 3 seeds; 1 collapsed, 1 failed)".
std::string runs_text(const Row& row, const Metric& metric, std::size_t runs, std::size_t counted) {
  if (counted == runs) return fmt::format("({})", counted);
  std::string reasons;
  const auto add = [&](std::size_t left_out, std::string_view reason) {
    if (left_out > 0)
      reasons += fmt::format("{}{} {}", reasons.empty() ? "" : ", ", left_out, reason);
  };
  add(row.collapsed, "collapsed");
  add(row.failed, "failed");
  const std::size_t no_backdoor = metric.of_backdoor ? row.no_backdoor : 0;
  add(no_backdoor, "without a backdoor");
  add(runs - counted - row.collapsed - row.failed - no_backdoor, "without a value");
  return fmt::format("({} of {} seeds; {})", counted, runs, reasons);
}

std::string mean_and_spread(const Row& row, const Metric& metric, std::size_t all,
                            const std::vector<double>& values) {
  const std::string runs = runs_text(row, metric, all, values.size());
  // An encoder is never measured.
  const std::size_t left_out = row.collapsed + row.failed + row.no_backdoor;
  if (values.empty()) return left_out == 0 ? "-" : "- " + runs;
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (values.size() == 1) return fmt::format("{} {}", base::fixed(mean, 3), runs);
  const double squares = std::accumulate(
      values.begin(), values.end(), 0.0,
      [mean](double sum, double value) { return sum + (value - mean) * (value - mean); });
  return fmt::format("{} ± {} {}", base::fixed(mean, 3),
                     base::fixed(std::sqrt(squares / (n - 1)), 3), runs);
}

/// `result` is one of `rows`.
void add(Row& row, const nlohmann::json& rows, const nlohmann::json& result,
         const std::vector<const Metric*>& metrics) {
  row.values.resize(metrics.size());
  if (has_collapsed(result)) ++row.collapsed;
  if (has_failed(result)) ++row.failed;
  if (is_void(result)) return;
  const bool no_backdoor = &result != &rows[0] && !objection_to_attack(rows).empty();
  if (no_backdoor) ++row.no_backdoor;
  for (std::size_t m = 0; m < metrics.size(); ++m) {
    if (no_backdoor && metrics[m]->of_backdoor) continue;
    if (const auto value = value_of(result, *metrics[m])) row.values[m].push_back(*value);
  }
}

void add(Detector& detector, const nlohmann::json& result) {
  ++detector.runs;
  if (!is_conclusive(result))
    ++detector.no_verdict;
  else if (is_suspicious(result))
    ++detector.suspicious;
  if (const auto score = number_in(section_of(result, "verdict"), "score"))
    detector.scores.push_back(*score);
}

/// "neural-cleanse: suspicious in 3 of 5 runs, no verdict in 1, scores 1.21 to 4.30".
std::string detector_line(const Detector& detector) {
  std::string text = fmt::format("{}: suspicious in {} of {} runs", base::printable(detector.name),
                                 detector.suspicious, detector.runs);
  if (detector.no_verdict > 0) text += fmt::format(", no verdict in {}", detector.no_verdict);
  if (detector.scores.empty()) return text + '\n';
  const auto [low, high] = std::minmax_element(detector.scores.begin(), detector.scores.end());
  return text + fmt::format(", scores {} to {}\n", base::fixed(*low, 2), base::fixed(*high, 2));
}

}  // namespace

std::string summary_table(const std::vector<FinishedRun>& runs, bool color) {
  const auto metrics = metrics_with(&Metric::in_summary);
  std::vector<Group> groups;
  for (const auto& run : runs) {
    Group& group = find_or_add(groups, run.group);
    ++group.runs;
    const auto& rows = section_of(run.results, "rows");
    for (const auto& result : rows)
      add(find_or_add(group.rows, result.at("name").get<std::string>()), rows, result, metrics);
    for (const auto& result : section_of(run.results, "detectors"))
      add(find_or_add(group.detectors, result.at("name").get<std::string>()), result);
  }
  std::string text;
  for (const auto& group : groups) {
    if (!group.name.empty())
      text += std::string(color ? base::kBold : "") + base::printable(group.name) +
              std::string(color ? base::kReset : "") + '\n';
    std::vector<std::vector<base::Cell>> lines{{{"defense"}}};
    for (const Metric* metric : metrics) lines[0].push_back({std::string(metric->title)});
    for (const auto& row : group.rows) {
      auto& line = lines.emplace_back(1, base::Cell{row.name});
      for (std::size_t m = 0; m < metrics.size(); ++m)
        line.push_back({mean_and_spread(row, *metrics[m], group.runs, row.values[m])});
    }
    if (group.rows.empty()) lines.emplace_back(1, base::Cell{"no run got as far as a result"});
    text += base::columns(lines, "l" + std::string(metrics.size(), 'r'));
    for (const auto& detector : group.detectors) text += detector_line(detector);
    text += '\n';
  }
  return text + "mean ± sample standard deviation (number of runs)\n";
}

}  // namespace backstop::report
