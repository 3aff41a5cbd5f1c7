#include "host/report/summary.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/audit.hpp"
#include "host/report/detectors.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/roc.hpp"
#include "host/report/statistics.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

/// Numbers of the runs by what they are called, in the order in which they first appear.
struct Numbers {
  std::string name;
  std::vector<double> values;
};

/// A metric of a row.
struct Sample {
  std::vector<double> values;  ///< of the runs that are counted
  LeftOut left_out;
};

struct Row {
  std::string name;
  std::vector<Numbers> extra;   ///< what the plugin recorded
  std::vector<Sample> samples;  ///< for each metric of the summary
};

/// What a detector said of the models of the runs, and how well it told images apart.
struct Detector {
  std::string name;
  std::size_t runs = 0, suspicious = 0, no_verdict = 0;
  std::vector<double> scores;
  std::vector<Numbers> inputs;  ///< of input_metrics()
  std::vector<Numbers> extra;
};

/// What a detector said of the models of all runs, of which some are clean and others backdoored.
struct Judge {
  std::string name;
  std::size_t detections = 0, false_alarms = 0, no_verdict = 0;
  std::size_t no_backdoor = 0;  ///< attacked models that have none, and are not counted
  std::size_t clean_models = 0, backdoored_models = 0;
  std::vector<double> clean, backdoored;  ///< scores
};

struct Group {
  std::string name;
  std::size_t runs = 0;
  std::vector<Row> rows;
  std::vector<Row> audits;  ///< of audit_metrics()
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
std::string runs_text(const Sample& sample, std::size_t runs) {
  const std::size_t counted = sample.values.size();
  if (counted == runs) return fmt::format("({})", counted);
  LeftOut left_out = sample.left_out;
  // Those that ended before the row have no value either.
  left_out.no_value = runs - counted - left_out.collapsed - left_out.failed - left_out.no_backdoor;
  return fmt::format("({} of {} seeds; {})", counted, runs, left_out.text());
}

/// "0.912 ± 0.003", or the number alone where there is one.
std::string mean_and_spread(const std::vector<double>& values) {
  const Spread spread = spread_of(values);
  const std::string mean = base::fixed(spread.mean, 3);
  return spread.deviation ? fmt::format("{} ± {}", mean, base::fixed(*spread.deviation, 3)) : mean;
}

std::string mean_and_spread(const Sample& sample, std::size_t runs) {
  if (!sample.values.empty()) return mean_and_spread(sample.values) + ' ' + runs_text(sample, runs);
  // An encoder is never measured.
  const LeftOut& left_out = sample.left_out;
  const bool never = left_out.collapsed + left_out.failed + left_out.no_backdoor == 0;
  return never ? "-" : "- " + runs_text(sample, runs);
}

void add_extra(std::vector<Numbers>& all, const nlohmann::json& result) {
  const auto& extra = section_of(result, "extra");
  for (const auto& item : extra.items())
    if (const auto value = number_in(extra, item.key()))
      find_or_add(all, item.key()).values.push_back(*value);
}

/// "pruned: pruned_neurons 12.000 ± 1.414 (2), ...", a line.
std::string numbers_line(const std::string& name, const std::vector<Numbers>& all) {
  std::string text;
  for (const auto& numbers : all)
    text += fmt::format("{}{} {} ({})", text.empty() ? "" : ", ", base::printable(numbers.name),
                        mean_and_spread(numbers.values), numbers.values.size());
  return text.empty() ? "" : fmt::format("{}: {}\n", base::printable(name), text);
}

/// `result` is one of `rows`.
void add(Row& row, const nlohmann::json& rows, const nlohmann::json& result,
         const std::vector<const Metric*>& metrics) {
  row.samples.resize(metrics.size());
  add_extra(row.extra, result);
  for (std::size_t m = 0; m < metrics.size(); ++m) {
    const Contribution contribution = contribution_of(rows, result, *metrics[m]);
    row.samples[m].left_out.add(contribution.reason);
    if (contribution.reason == Contribution::Reason::counted)
      row.samples[m].values.push_back(contribution.value);
  }
}

void add(Detector& detector, const nlohmann::json& result) {
  for (const Metric& metric : input_metrics())
    if (const auto value = value_of(result, metric))
      find_or_add(detector.inputs, std::string(metric.title)).values.push_back(*value);
  add_extra(detector.extra, result);
  if (!result.contains("verdict") && !result.contains("error")) return;
  ++detector.runs;
  if (!is_conclusive(result))
    ++detector.no_verdict;
  else if (is_suspicious(result))
    ++detector.suspicious;
  if (const auto score = number_in(section_of(result, "verdict"), "score"))
    detector.scores.push_back(*score);
}

/// An entry of `audits`.
void add(Row& row, const nlohmann::json& entry) {
  const auto& metrics = audit_metrics();
  row.samples.resize(metrics.size());
  for (std::size_t m = 0; m < metrics.size(); ++m)
    if (const auto value = value_of(entry, metrics[m])) row.samples[m].values.push_back(*value);
}

/// Whether some row has a number in column `m`.
bool measured(const std::vector<Row>& rows, std::size_t m) {
  return std::any_of(rows.begin(), rows.end(), [m](const Row& row) {
    return m < row.samples.size() && !row.samples[m].values.empty();
  });
}

/// The columns m for which `shown(m)` holds.
template <typename Shown>
std::string rows_table(const std::string& title, const std::vector<const Metric*>& metrics,
                       const std::vector<Row>& rows, std::size_t runs, const Shown& shown) {
  std::vector<std::vector<base::Cell>> lines{{{title}}};
  for (std::size_t m = 0; m < metrics.size(); ++m)
    if (shown(m)) lines[0].push_back({std::string(metrics[m]->title)});
  for (const auto& row : rows) {
    auto& line = lines.emplace_back(1, base::Cell{row.name});
    for (std::size_t m = 0; m < metrics.size(); ++m)
      if (shown(m)) line.push_back({mean_and_spread(row.samples[m], runs)});
  }
  if (rows.empty()) lines.emplace_back(1, base::Cell{"no run got as far as a result"});
  return base::columns(lines, "l" + std::string(lines[0].size() - 1, 'r'));
}

/// What the audits of some run measured.
std::string audits_table(const std::vector<Row>& rows, std::size_t runs) {
  std::vector<const Metric*> metrics;
  for (const Metric& metric : audit_metrics()) metrics.push_back(&metric);
  return rows.empty() ? "" : rows_table("audit", metrics, rows, runs, [&](std::size_t m) {
    return measured(rows, m);
  });
}

/// "neural-cleanse: suspicious in 3 of 5 runs, no verdict in 1, scores 1.21 to 4.30".
std::string detector_line(const Detector& detector) {
  if (detector.runs == 0) return "";
  std::string text = fmt::format("{}: suspicious in {} of {} runs", base::printable(detector.name),
                                 detector.suspicious, detector.runs);
  if (detector.no_verdict > 0) text += fmt::format(", no verdict in {}", detector.no_verdict);
  if (detector.scores.empty()) return text + '\n';
  const auto [low, high] = std::minmax_element(detector.scores.begin(), detector.scores.end());
  return text + fmt::format(", scores {} to {}\n", base::fixed(*low, 2), base::fixed(*high, 2));
}

/// `results` are those of a run whose model is known to be clean, or backdoored.
void add(Judge& judge, const nlohmann::json& results, const nlohmann::json& detector) {
  const bool backdoored = results["backdoored"] == true;
  if (backdoored && !objection_to_attack(section_of(results, "rows")).empty()) {
    ++judge.no_backdoor;
    return;
  }
  ++(backdoored ? judge.backdoored_models : judge.clean_models);
  if (!is_conclusive(detector)) {
    ++judge.no_verdict;
    return;
  }
  if (is_suspicious(detector)) ++(backdoored ? judge.detections : judge.false_alarms);
  if (const auto score = number_in(section_of(detector, "verdict"), "score"))
    (backdoored ? judge.backdoored : judge.clean).push_back(*score);
}

/// "neural-cleanse: AUROC 0.917 (4 clean models, 6 backdoored), detections 5 of 6, false alarms 1 of
/// 4; no verdict: 1"
std::string judge_line(const Judge& judge) {
  const auto auroc = auroc_of(roc_curve(judge.clean, judge.backdoored));
  std::string text = fmt::format(
      "{}: AUROC {} ({} clean models, {} backdoored), detections {} of {}, false alarms {} of {}",
      base::printable(judge.name), auroc ? base::fixed(*auroc, 3) : "-", judge.clean.size(),
      judge.backdoored.size(), judge.detections, judge.backdoored_models, judge.false_alarms,
      judge.clean_models);
  if (judge.no_verdict > 0) text += fmt::format("; no verdict: {}", judge.no_verdict);
  if (judge.no_backdoor > 0)
    text += fmt::format("; left out, because the attack did not take: {}", judge.no_backdoor);
  return text + '\n';
}

}  // namespace

std::string summary_table(const std::vector<FinishedRun>& runs, bool color) {
  const auto metrics = metrics_with(&Metric::in_summary);
  std::vector<Group> groups;
  std::vector<Judge> judges;
  for (const auto& run : runs) {
    Group& group = find_or_add(groups, run.group);
    ++group.runs;
    const auto& rows = section_of(run.results, "rows");
    for (const auto& result : rows)
      add(find_or_add(group.rows, result.at("name").get<std::string>()), rows, result, metrics);
    for (const auto& result : section_of(run.results, "audits"))
      add(find_or_add(group.audits, audited_name(result)), result);
    for (const auto& result : section_of(run.results, "detectors")) {
      const auto name = result.at("name").get<std::string>();
      add(find_or_add(group.detectors, name), result);
      if (run.results.contains("backdoored") && result.contains("verdict"))
        add(find_or_add(judges, name), run.results, result);
    }
  }
  std::string text;
  for (const auto& group : groups) {
    if (!group.name.empty())
      text += std::string(color ? base::kBold : "") + base::printable(group.name) +
              std::string(color ? base::kReset : "") + '\n';
    // A column that only some recipes have, and this one does not.
    text += rows_table("defense", metrics, group.rows, group.runs, [&](std::size_t m) {
      return metrics[m]->section == "metrics" || measured(group.rows, m);
    });
    for (const auto& row : group.rows) text += numbers_line(row.name, row.extra);
    text += audits_table(group.audits, group.runs);
    for (const auto& detector : group.detectors) {
      text += detector_line(detector);
      text += numbers_line(detector.name, detector.inputs);
      text += numbers_line(detector.name, detector.extra);
    }
    text += '\n';
  }
  // A rate needs both kinds of models.
  std::erase_if(judges, [](const Judge& judge) {
    return judge.clean_models == 0 || judge.backdoored_models == 0;
  });
  if (!judges.empty()) text += "detection of backdoored models, over all runs\n";
  for (const auto& judge : judges) text += judge_line(judge);
  if (!judges.empty()) text += '\n';
  return text + "mean ± sample standard deviation (number of runs)\n";
}

}  // namespace backstop::report
