#include "host/report/html.hpp"

#include <algorithm>
#include <sstream>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/audit.hpp"
#include "host/report/charts.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/model_text.hpp"
#include "host/report/page.hpp"
#include "host/report/table.hpp"

namespace backstop::report {
namespace {

// -- tables --

/// What a metric means; empty where nothing is to be said.
std::string meaning_of(const Metric* metric) {
  if (metric == nullptr) return "";
  std::string text(metric->definition);
  if (metric->better != Better::neither)
    text += fmt::format("{}{} is better", text.empty() ? "" : "; ",
                        metric->better == Better::higher ? "higher" : "lower");
  return text;
}

/// `lines`: cells, titles first.
std::string plain_table(const std::string& caption,
                        const std::vector<std::vector<std::string>>& lines,
                        std::string_view css_class = {}) {
  if (lines.empty()) return "";
  HtmlTable table = {.caption = caption, .css_class = css_class};
  for (const std::string& title : lines[0]) table.columns.push_back({title});
  for (std::size_t i = 1; i < lines.size(); ++i) {
    HtmlRow& row = table.rows.emplace_back();
    for (const std::string& cell : lines[i]) row.cells.push_back({cell});
  }
  return html_table(table);
}

std::string warnings(const std::vector<std::string>& lines) {
  std::string html;
  for (const auto& line : lines) html += html_element("p", "warning: " + line, "warning") + "\n";
  return html;
}

// -- curves --

/// "anp from 1 to 0.25; nad from 1 to 0.5", for those who do not see the curves.
std::string ends_of(const std::vector<Series>& curves) {
  std::string text;
  for (const Series& curve : curves)
    if (!curve.points.empty())
      text += fmt::format("{}{} from {:.3g} to {:.3g}", text.empty() ? "" : "; ", curve.name,
                          curve.points.front().y, curve.points.back().y);
  return text;
}

std::string curve_figure(ChartFrame frame, const std::vector<Series>& curves,
                         const std::string& explanation = "") {
  frame.description = ends_of(curves);
  const std::string title = frame.title;
  return html_figure(line_chart({std::move(frame), {{"", curves}}}), title, explanation);
}

/// What was measured by epoch in the trainings of one kind of stage.
struct Trainings {
  std::string stage;
  std::vector<std::string> names;
  std::vector<std::vector<Series>> curves;  ///< for each metric, of each name
  std::vector<Series> rates;                ///< learning rates, of each name
};

/// `rates`: {epoch: [...], rate: [...]}, of the steps since the event before.
void add_rates(const nlohmann::json& rates, Series& curve) {
  const auto& epochs = section_of(rates, "epoch");
  const auto& values = section_of(rates, "rate");
  for (std::size_t i = 0; i < std::min(epochs.size(), values.size()); ++i)
    if (epochs[i].is_number() && values[i].is_number())
      curve.points.push_back({epochs[i].get<double>(), values[i].get<double>()});
}

std::vector<Trainings> trainings_of(const std::string& events) {
  const auto metrics = metrics_with(&Metric::by_epoch);
  std::vector<Trainings> all;
  std::istringstream lines(events);
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line, nullptr, false);
    if (!event.is_object() || event.value("event", "epoch") != "epoch") continue;
    const auto epoch = number_in(event, "epoch");
    if (!epoch) continue;
    const auto stage = event.value("stage", "");
    auto found = std::find_if(all.begin(), all.end(),
                              [&](const Trainings& trainings) { return trainings.stage == stage; });
    if (found == all.end())
      found = all.insert(found, {stage, {}, std::vector<std::vector<Series>>(metrics.size()), {}});
    const auto name = event.value("name", "");
    const auto n = static_cast<std::size_t>(
        std::find(found->names.begin(), found->names.end(), name) - found->names.begin());
    if (n == found->names.size()) {
      found->names.push_back(name);
      for (auto& curves : found->curves) curves.push_back({name, {}});
      found->rates.push_back({name, {}});
    }
    for (std::size_t m = 0; m < metrics.size(); ++m)
      if (const auto value = number_in(event, metrics[m]->key))
        found->curves[m][n].points.push_back({*epoch, *value});
    add_rates(section_of(event, "learning_rate"), found->rates[n]);
  }
  return all;
}

/// A figure for each metric, with a curve for each training that was measured after its start. One
/// training alone has its metrics in one figure.
std::vector<std::string> training_figures(Trainings trainings) {
  const auto metrics = metrics_with(&Metric::by_epoch);
  std::vector<std::string> figures;
  std::vector<Series> of_one;
  for (std::size_t m = 0; m < metrics.size(); ++m) {
    auto& curves = trainings.curves[m];
    std::erase_if(curves, [](const Series& curve) { return curve.points.size() < 2; });
    ChartFrame frame = {.title = fmt::format("[{}] {}", trainings.stage, metrics[m]->title),
                        .x = {.label = "epoch", .whole = true, .minimum = 0},
                        .y = {.minimum = 0, .maximum = 1},
                        .styles = trainings.names};
    if (trainings.names.size() > 1) {
      frame.y.label = metrics[m]->title;
      if (!curves.empty())
        figures.push_back(curve_figure(std::move(frame), curves, meaning_of(metrics[m])));
    } else if (!curves.empty()) {
      of_one.push_back({std::string(metrics[m]->title), std::move(curves[0].points)});
    }
  }
  if (!of_one.empty())
    figures.push_back(
        curve_figure({.title = fmt::format("[{}] {}", trainings.stage, trainings.names[0]),
                      .x = {.label = "epoch", .whole = true, .minimum = 0},
                      .y = {.label = "share of test images", .minimum = 0, .maximum = 1}},
                     of_one));
  std::erase_if(trainings.rates, [](const Series& curve) { return curve.points.empty(); });
  if (!trainings.rates.empty())
    figures.push_back(curve_figure({.title = fmt::format("[{}] learning rate", trainings.stage),
                                    .x = {.label = "epoch", .minimum = 0},
                                    .y = {.label = "learning rate", .minimum = 0},
                                    .styles = trainings.names},
                                   trainings.rates, "what the scheduler chose for each step"));
  return figures;
}

std::string epoch_section(const ReportContent& content) {
  std::vector<std::string> figures;
  for (auto& trainings : trainings_of(content.metrics))
    for (auto& figure : training_figures(std::move(trainings)))
      figures.push_back(std::move(figure));
  std::string html = html_figures(figures);
  const ResultTable table = lay_out_results(content.results);
  if (!table.curves.empty())
    html += "<details><summary>the numbers by epoch</summary>\n" +
            plain_table(table.curves_title, table.curves) + "</details>\n";
  return html;
}

/// What a plugin has recorded: "Y by X" gives both axes their labels. x is on a logarithmic scale
/// where all of it is positive, and y from 0 to 1 where it fits.
std::string recorded_figure(const std::string& row, const nlohmann::json& recorded) {
  constexpr std::string_view kBy = " by ";
  const auto x = recorded.at("x").get<std::vector<double>>();
  const auto y = recorded.at("y").get<std::vector<double>>();
  if (x.size() < 2) return "";
  const auto name = recorded.at("name").get<std::string>();
  ChartFrame frame = {.title = row + ": " + name,
                      .x = {.logarithmic = *std::min_element(x.begin(), x.end()) > 0}};
  if (const auto by = name.rfind(kBy); by != std::string::npos) {
    frame.y.label = name.substr(0, by);
    frame.x.label = name.substr(by + kBy.size());
  }
  if (*std::min_element(y.begin(), y.end()) >= 0 && *std::max_element(y.begin(), y.end()) <= 1) {
    frame.y.minimum = 0;
    frame.y.maximum = 1;
  }
  Series curve = {"", {}};
  for (std::size_t i = 0; i < x.size(); ++i) curve.points.push_back({x[i], y[i]});
  return curve_figure(std::move(frame), {curve});
}

std::string recorded_section(const nlohmann::json& results) {
  std::vector<std::string> figures;
  for (const auto& row : section_of(results, "rows"))
    for (const auto& recorded : section_of(row, "curves"))
      figures.push_back(recorded_figure(row.value("name", ""), recorded));
  std::erase(figures, "");
  return html_figures(figures);
}

/// The ROC curves of the detectors that score images, in one figure.
std::string roc_figure(const nlohmann::json& results) {
  std::vector<Series> curves;
  for (const auto& detector : section_of(results, "detectors")) {
    const auto& roc = section_of(section_of(detector, "inputs"), "roc");
    if (roc.empty() || roc.at("x").empty()) continue;
    Series& curve = curves.emplace_back(Series{detector.value("name", ""), {}});
    for (std::size_t i = 0; i < roc.at("x").size(); ++i)
      curve.points.push_back({roc.at("x").at(i).get<double>(), roc.at("y").at(i).get<double>()});
  }
  if (curves.empty()) return "";
  return curve_figure(
      {.title = "ROC curves",
       .x = {.label = "clean test images called triggered", .minimum = 0, .maximum = 1},
       .y = {.label = "triggered images found", .minimum = 0, .maximum = 1}},
      curves, "triggered images found, by the share of clean test images called triggered");
}

// -- results --

std::string results_table(const ResultTable& results) {
  HtmlTable table = {.caption = "a row for each defense"};
  for (std::size_t c = 0; c < results.header.size(); ++c)
    table.columns.push_back({results.header[c], meaning_of(results.metrics[c])});
  for (const auto& line : results.rows) {
    HtmlRow& row = table.rows.emplace_back();
    if (line.marked) row.css_class = "warning";
    for (std::size_t c = 0; c < line.cells.size(); ++c)
      row.cells.push_back({line.cells[c], line.best[c] ? "best" : "", line.values[c]});
  }
  return html_table(table);
}

std::string result_section(const nlohmann::json& results) {
  const ResultTable table = lay_out_results(results);
  std::string html =
      results_table(table) + warnings(table.warnings) + html_notes(table.definitions);
  for (const auto& line : table.findings) html += html_element("p", line) + "\n";
  return html;
}

std::string detector_section(const nlohmann::json& results) {
  const ResultTable table = lay_out_results(results);
  std::string html;
  for (const auto& detector : table.detectors) {
    html += html_element("h3", detector.name) + "\n";
    for (const auto& line : detector.sentences)
      html += html_element("p", line, detector.suspicious ? "warning" : "") + "\n";
    html += plain_table(detector.name + ", by class", detector.classes);
  }
  return html;
}

std::string input_section(const nlohmann::json& results) {
  const ResultTable table = lay_out_results(results);
  return plain_table("how well the scores of test images tell triggered from clean", table.inputs) +
         html_notes(table.input_definitions) + roc_figure(results);
}

std::string expectation_section(const nlohmann::json& results) {
  const ResultTable table = lay_out_results(results);
  if (table.expectations.empty()) return "";
  std::string html = "<ul>\n";
  for (const auto& entry : table.expectations)
    html += "<li>" +
            html_element("span", entry.met ? "met" : "not met", entry.met ? "" : "missed") + ": " +
            html_escape(entry.text) + "</li>\n";
  return html + "</ul>\n";
}

// -- audit --

/// Attack success along the paths from the backdoored model, a curve for each model that was
/// audited.
std::string path_figure(const nlohmann::json& audits) {
  std::vector<Series> curves;
  for (const auto& entry : audits) {
    Series curve = {audited_name(entry), {}};
    for (const auto& point : section_of(entry, "path"))
      if (const auto t = number_in(point, "t"), rate = number_in(point, "attack_success_rate");
          t && rate)
        curve.points.push_back({*t, *rate});
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  if (curves.empty()) return "";
  return curve_figure({.title = "attack success on the path",
                       .x = {.label = "t", .minimum = 0, .maximum = 1},
                       .y = {.label = "attack success", .minimum = 0, .maximum = 1}},
                      curves, "of the weights (1 - t) \"no defense\" + t model, by t");
}

std::string audit_section(const nlohmann::json& results) {
  const AuditTable audits = lay_out_audits(results);
  HtmlTable table = {.caption = "a row for each model that was audited"};
  for (std::size_t c = 0; c < audits.header.size(); ++c)
    table.columns.push_back({audits.header[c], meaning_of(audits.metrics[c])});
  for (const auto& line : audits.rows) {
    HtmlRow& row = table.rows.emplace_back();
    for (const auto& cell : line) row.cells.push_back({cell});
  }
  return html_table(table) + warnings(audits.notes) + html_notes(audits.definitions) +
         path_figure(section_of(results, "audits"));
}

// -- environment --

std::string plain(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.empty()) return "-";
  if (value.is_number_float()) return base::shortest(value.get<double>());
  return value.dump();
}

std::string plugin_section(const nlohmann::json& environment) {
  std::vector<std::vector<std::string>> lines = {{"name", "kind", "version", "path", "sha256"}};
  for (const auto& plugin : section_of(environment, "plugins")) {
    auto& line = lines.emplace_back();
    for (const auto& key : lines[0]) line.push_back(plain(section_of(plugin, key)));
  }
  return plain_table("what the run loaded", lines, "facts");
}

std::string environment_section(nlohmann::json environment) {
  if (environment.is_object()) environment.erase("plugins");
  std::vector<std::vector<std::string>> lines = {{"what", "value"}};
  const nlohmann::json flat = environment.flatten();
  for (const auto& [path, value] : flat.items()) {
    std::string key = path.empty() ? path : path.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    lines.push_back({key, plain(value)});
  }
  return plain_table("run.json", lines, "facts");
}

std::string gallery(const std::vector<Picture>& pictures, const std::string& description) {
  std::string html;
  for (const Picture& picture : pictures)
    html += html_picture(picture.png, picture.name + ": " + description, picture.name);
  return html;
}

}  // namespace

std::string html_report(const ReportContent& content) {
  const nlohmann::json& results = content.results;
  const auto seed = results.find("seed");
  return html_page(
      results.value("name", "run"), seed == results.end() ? "" : "seed " + seed->dump(),
      {{"Results", result_section(results)},
       {"Detectors", detector_section(results)},
       {"Detection of inputs", input_section(results)},
       {"Expectations", expectation_section(results)},
       {"Audit", audit_section(results)},
       {"By epoch", epoch_section(content)},
       {"Recorded by the defenses", recorded_section(results)},
       {"Accuracy by class",
        plain_table("share of the test images of each class", accuracy_by_class(results))},
       {"Triggers",
        gallery(content.triggers, "test images as they are, with the trigger, and the difference")},
       {"Found by the plugins", gallery(content.pictures, "images that the plugin recorded")},
       {"Recipe",
        fmt::format("<pre tabindex=\"0\" role=\"region\" aria-label=\"recipe.toml\">{}</pre>\n",
                    html_escape(content.recipe))},
       {"Plugins", plugin_section(content.environment)},
       {"Environment", environment_section(content.environment)}});
}

}  // namespace backstop::report
