#include "host/report/study_figures.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/report/charts.hpp"
#include "host/report/fields.hpp"
#include "host/report/statistics.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

/// Of rows, in the order in which they first appear: they look the same in all figures.
std::vector<std::string> names_of(const Study& study) {
  std::vector<std::string> names;
  for (const auto& block : study.blocks)
    for (const auto& row : block.rows)
      if (std::find(names.begin(), names.end(), row.name) == names.end()) names.push_back(row.name);
  return names;
}

/// For each block the conditions that tell it from the others, and no more: "badnets, resnet18". Of a
/// single block, attack and dataset.
std::vector<std::string> titles_of(const Study& study) {
  std::vector<std::string> titles(study.blocks.size());
  for (std::size_t c = 0; c < study.conditions.size(); ++c) {
    const std::string& key = study.conditions[c];
    // Of the blocks that have the same title so far.
    std::map<std::string, std::set<std::string>> values;
    for (std::size_t b = 0; b < titles.size(); ++b)
      values[titles[b]].insert(study.blocks[b].conditions[c]);
    const bool differs = std::any_of(values.begin(), values.end(),
                                     [](const auto& item) { return item.second.size() > 1; });
    if (!differs && titles.size() > 1) continue;
    const bool speaks = key.ends_with("plugin") || key == "model.architecture" || key == "scenario";
    for (std::size_t b = 0; b < titles.size(); ++b) {
      const std::string& value = study.blocks[b].conditions[c];
      if (value == "-") continue;
      if (!titles[b].empty()) titles[b] += ", ";
      if (!speaks) titles[b] += title_of_condition(key) + ' ';
      titles[b] += value;
    }
  }
  return titles;
}

std::optional<std::size_t> column_of(const Study& study, std::string_view key) {
  const auto found = std::find_if(study.metrics.begin(), study.metrics.end(),
                                  [&](const Metric* metric) { return metric->key == key; });
  if (found == study.metrics.end()) return std::nullopt;
  return static_cast<std::size_t>(found - study.metrics.begin());
}

std::optional<Interval> around(const Spread& spread) {
  if (!spread.deviation) return std::nullopt;
  return Interval{spread.mean - *spread.deviation, spread.mean + *spread.deviation};
}

StudyFigure figure(std::string name, const ChartFrame& frame, std::string svg) {
  return {std::move(name), frame.title, frame.description, std::move(svg)};
}

void add_trade_off(const Study& study, std::vector<StudyFigure>& figures) {
  const auto accuracy = column_of(study, "clean_accuracy");
  const auto success = column_of(study, "attack_success_rate");
  if (!accuracy || !success) return;
  Chart chart;
  chart.frame.title = "Clean accuracy and attack success";
  chart.frame.description =
      "clean accuracy against attack success rate, a point a defense with the standard deviations "
      "of "
      "both; the best is at the upper left";
  chart.frame.x = {.label = "attack success rate", .minimum = 0, .maximum = 1};
  chart.frame.y = {.label = "clean accuracy"};
  chart.frame.styles = names_of(study);
  const auto titles = titles_of(study);
  for (std::size_t b = 0; b < titles.size(); ++b) {
    const StudyBlock& block = study.blocks[b];
    Panel panel{titles[b], {}};
    for (const auto& row : block.rows) {
      const Spread &x = row.cells[*success].spread, &y = row.cells[*accuracy].spread;
      if (x.n > 0 && y.n > 0)
        panel.series.push_back({row.name, {{x.mean, y.mean, around(x), around(y)}}});
    }
    if (panel.series.size() > 1) chart.panels.push_back(std::move(panel));
  }
  if (!chart.panels.empty())
    figures.push_back(figure("accuracy-by-success", chart.frame, scatter_chart(chart)));
}

/// The mean of a metric over the runs after each epoch of the row's training.
Series curve_of(const Study& study, const StudyRow& row, const Metric& metric) {
  std::map<double, std::vector<double>> values;
  for (const auto& place : row.places) {
    const auto& rows = study.runs[place.run].results.at("rows");
    if (is_void(rows[place.row]) || (metric.of_backdoor && !objection_to_attack(rows).empty()))
      continue;
    for (const auto& point : section_of(rows[place.row], "by_epoch"))
      if (const auto value = number_in(point, metric.key))
        values[*number_in(point, "epoch")].push_back(*value);
  }
  Series series{row.name, {}};
  for (const auto& [epoch, numbers] : values) {
    const Spread spread = spread_of(numbers);
    series.points.push_back({epoch, spread.mean, std::nullopt, around(spread)});
  }
  return series;
}

void add_curves(const Study& study, const Metric& metric, std::vector<StudyFigure>& figures) {
  Chart chart;
  chart.frame.title = std::string(metric.title) + " by epoch";
  chart.frame.description = fmt::format(
      "{} while each defense trains, mean over the runs and standard deviation", metric.title);
  chart.frame.x = {.label = "epoch", .whole = true};
  chart.frame.y = {.label = std::string(metric.title), .minimum = 0, .maximum = 1};
  chart.frame.styles = names_of(study);
  const auto titles = titles_of(study);
  for (std::size_t b = 0; b < titles.size(); ++b) {
    const StudyBlock& block = study.blocks[b];
    Panel panel{titles[b], {}};
    for (const auto& row : block.rows) {
      if (row.plugin.empty()) continue;  // its epochs are those of the attack
      if (Series series = curve_of(study, row, metric); series.points.size() > 1)
        panel.series.push_back(std::move(series));
    }
    if (!panel.series.empty()) chart.panels.push_back(std::move(panel));
  }
  if (chart.panels.empty()) return;
  std::string name = std::string(metric.title) + "-by-epoch";
  std::replace(name.begin(), name.end(), ' ', '-');
  figures.push_back(figure(std::move(name), chart.frame, line_chart(chart)));
}

void add_cost(const Study& study, std::vector<StudyFigure>& figures) {
  auto cost = column_of(study, "gpu_seconds");
  if (!cost) cost = column_of(study, "cpu_seconds");
  if (!cost) return;
  const Metric& metric = *study.metrics[*cost];
  BoxChart chart;
  chart.frame.title = "Cost";
  chart.frame.description = fmt::format(
      "{} of each defense without evaluation, over all runs, attacks and datasets", metric.title);
  chart.frame.x = {.label = std::string(metric.title) + " (s)", .logarithmic = true};
  BoxSeries series;
  for (const auto& name : names_of(study)) {
    std::vector<double> values;
    for (const auto& block : study.blocks)
      for (const auto& row : block.rows)
        if (row.name == name && !row.plugin.empty())
          for (const auto& [seed, value] : row.cells[*cost].values)
            if (value > 0) values.push_back(value);
    if (values.empty()) continue;
    chart.categories.push_back(name);
    series.values.push_back(std::move(values));
  }
  if (chart.categories.empty()) return;
  chart.panels.push_back({"", {std::move(series)}});
  figures.push_back(figure("cost", chart.frame, box_chart(chart)));
}

}  // namespace

std::vector<StudyFigure> figures_of(const Study& study) {
  std::vector<StudyFigure> figures;
  add_trade_off(study, figures);
  for (const Metric* metric : metrics_with(&Metric::by_epoch)) add_curves(study, *metric, figures);
  add_cost(study, figures);
  return figures;
}

}  // namespace backstop::report
