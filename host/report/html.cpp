#include "host/report/html.hpp"

#include <algorithm>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/audit.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/model_text.hpp"
#include "host/report/table.hpp"

namespace backstop::report {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1d2126; --faint: #667080; --line: #d5dae1; --page: #ffffff;
  --curve-0: #0b63b5; --curve-1: #b8480a; --curve-2: #3f7d20; --curve-3: #7a3fb0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --faint: #98a2b0; --line: #3a424d; --page: #14181d;
    --curve-0: #6cb4f5; --curve-1: #f79a5c; --curve-2: #8fce6b; --curve-3: #c79cf0; }
}
body { margin: 2rem auto; max-width: 64rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--page); }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, .facts th, .facts td { text-align: left; }
.facts td { overflow-wrap: anywhere; }
td.best { font-weight: bold; }
.note, figcaption { color: var(--faint); }
.missed, .warning { color: var(--curve-1); font-weight: bold; }
figure { display: inline-block; margin: 0 1.5rem 1.5rem 0; vertical-align: top; }
figure img { display: block; width: 10rem; image-rendering: pixelated; border: 1px solid var(--line); }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 12px; }
.grid { stroke: var(--line); }
.curve { fill: none; stroke-width: 2; }
.curve circle { stroke: none; }
.curve-0 { stroke: var(--curve-0); }
.curve-1 { stroke: var(--curve-1); stroke-dasharray: 6 3; }
.curve-2 { stroke: var(--curve-2); stroke-dasharray: 2 3; }
.curve-3 { stroke: var(--curve-3); stroke-dasharray: 9 3 2 3; }
.curve-4 { stroke: var(--curve-0); stroke-dasharray: 1 4; }
.curve-5 { stroke: var(--curve-1); }
.curve-6 { stroke: var(--curve-2); }
.curve-7 { stroke: var(--curve-3); }
.curve-0 circle, svg .label-0 { fill: var(--curve-0); }
.curve-1 circle, svg .label-1 { fill: var(--curve-1); }
.curve-2 circle, svg .label-2 { fill: var(--curve-2); }
.curve-3 circle, svg .label-3 { fill: var(--curve-3); }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); }
)";

std::string url_path(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (kPlain.find(c) != std::string_view::npos)
      result += c;
    else
      (result += '%').append({kHex[byte >> 4U], kHex[byte & 15U]});
  }
  return result;
}

std::string element(const std::string& tag, const std::string& text,
                    const std::string& css_class = "") {
  return "<" + tag + (css_class.empty() ? "" : " class=\"" + css_class + "\"") + ">" +
         html_escape(text) + "</" + tag + ">";
}

/// Lines of cells, titles first.
std::string plain_table(const std::vector<std::vector<std::string>>& lines) {
  if (lines.empty()) return "";
  std::string html = "<div class=\"scroll\"><table>\n";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    html += "<tr>";
    for (const auto& cell : lines[i]) html += element(i == 0 ? "th" : "td", cell);
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

// -- curves --

constexpr std::size_t kCurveStyles = 4;  // of kStyle; more curves take them again
constexpr double kLeft = 44, kRight = 120, kTop = 12, kBottom = 30, kWidth = 640, kHeight = 240;

struct Point {
  double epoch, value;
};

/// What was measured during one stage.
struct Chart {
  std::string stage, name;
  std::vector<std::vector<Point>> curves;  ///< for each metric that is shown by epoch
  double last_epoch = 1;
};

std::vector<Chart> charts_of(const std::string& events) {
  const auto metrics = metrics_with(&Metric::by_epoch);
  std::vector<Chart> charts;
  std::istringstream lines(events);
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line, nullptr, false);
    if (!event.is_object() || event.value("event", "epoch") != "epoch") continue;
    const auto epoch = number_in(event, "epoch");
    if (!epoch) continue;
    const auto stage = event.value("stage", "");
    const auto name = event.value("name", "");
    auto chart = std::find_if(charts.begin(), charts.end(), [&](const Chart& candidate) {
      return candidate.stage == stage && candidate.name == name;
    });
    if (chart == charts.end()) {
      charts.push_back({stage, name, std::vector<std::vector<Point>>(metrics.size())});
      chart = std::prev(charts.end());
    }
    chart->last_epoch = std::max(chart->last_epoch, *epoch);
    for (std::size_t m = 0; m < metrics.size(); ++m)
      if (const auto value = number_in(event, metrics[m]->key))
        chart->curves[m].push_back({*epoch, *value});
  }
  const auto has_no_line = [](const Chart& chart) {  // nothing was measured after the start
    return std::none_of(chart.curves.begin(), chart.curves.end(),
                        [](const auto& curve) { return curve.size() > 1; });
  };
  charts.erase(std::remove_if(charts.begin(), charts.end(), has_no_line), charts.end());
  return charts;
}

double x_of(double epoch, double last_epoch) {
  return kLeft + (kWidth - kLeft - kRight) * epoch / last_epoch;
}

double y_of(double share) {
  return kTop + (kHeight - kTop - kBottom) * (1 - share);
}

std::string label(double x, double y, std::string_view text, std::string_view attributes) {
  return fmt::format("<text x=\"{}\" y=\"{}\" {}>{}</text>\n", base::fixed(x, 1), base::fixed(y, 1),
                     attributes, html_escape(text));
}

std::string curve(const std::vector<Point>& points, double last_epoch, std::size_t number,
                  std::string_view title) {
  std::string path, dots;
  for (const auto& point : points) {
    const std::string x = base::fixed(x_of(point.epoch, last_epoch), 1);
    const std::string y = base::fixed(y_of(point.value), 1);
    path += fmt::format("{}{},{}", path.empty() ? "" : " ", x, y);
    dots += fmt::format(
        "<circle cx=\"{}\" cy=\"{}\" r=\"3\"><title>{} at epoch {}: {}</title></circle>", x, y,
        html_escape(title), base::fixed(point.epoch, 0), base::fixed(point.value, 3));
  }
  return fmt::format("<g class=\"curve curve-{}\"><polyline points=\"{}\"/>{}</g>\n", number, path,
                     dots);
}

/// Each curve's title at its end; titles that would touch are kept a line apart.
std::string curve_titles(const std::vector<std::vector<Point>>& curves,
                         const std::vector<const Metric*>& metrics) {
  constexpr double kApart = 14;
  std::vector<std::pair<double, std::size_t>> ends;
  for (std::size_t m = 0; m < curves.size(); ++m)
    if (!curves[m].empty()) ends.emplace_back(y_of(curves[m].back().value), m);
  std::sort(ends.begin(), ends.end());
  for (std::size_t i = 1; i < ends.size(); ++i) {
    const double overlap = kApart - (ends[i].first - ends[i - 1].first);
    if (overlap <= 0) continue;
    // Two share the way; the others above stay where they are.
    if (i == 1) ends[0].first -= overlap / 2;
    ends[i].first = ends[i - 1].first + kApart;
  }
  std::string svg;
  for (const auto& [y, m] : ends)
    svg += label(kWidth - kRight + 8, y + 4, metrics[m]->title,
                 fmt::format("class=\"label-{}\"", m % kCurveStyles));
  return svg;
}

std::string figure(const Chart& chart) {
  const auto metrics = metrics_with(&Metric::by_epoch);
  const std::string title = fmt::format("[{}] {}", chart.stage, chart.name);
  std::string svg = fmt::format(
      "<figure><svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" role=\"img\" "
      "aria-label=\"{2}: metrics by epoch\">\n",
      kWidth, kHeight, html_escape(title));
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0})
    svg += fmt::format(
               "<line class=\"grid\" x1=\"{0:.0f}\" x2=\"{1:.0f}\" y1=\"{2:.1f}\" "
               "y2=\"{2:.1f}\"/>\n",
               kLeft, kWidth - kRight, y_of(share)) +
           label(kLeft - 6, y_of(share) + 4, base::fixed(share, 2), "text-anchor=\"end\"");
  svg +=
      label(x_of(0, 1), kHeight - 10, "0", "text-anchor=\"middle\"") +
      label(x_of(0.5, 1), kHeight - 10, "epoch", "text-anchor=\"middle\"") +
      label(x_of(1, 1), kHeight - 10, base::fixed(chart.last_epoch, 0), "text-anchor=\"middle\"");
  for (std::size_t m = 0; m < metrics.size(); ++m)
    svg += curve(chart.curves[m], chart.last_epoch, m % kCurveStyles, metrics[m]->title);
  svg += curve_titles(chart.curves, metrics);
  return svg + "</svg>" + element("figcaption", title) + "</figure>\n";
}

/// What the plugins have recorded as curves, with a mark at each point. x is on a logarithmic scale
/// where all of it is positive.
std::string plugin_curve(const std::string& row, const nlohmann::json& recorded) {
  const auto x = recorded.at("x").get<std::vector<double>>();
  const auto y = recorded.at("y").get<std::vector<double>>();
  if (x.size() < 2) return "";
  const bool logarithmic = *std::min_element(x.begin(), x.end()) > 0;
  const auto scaled = [&](double value) { return logarithmic ? std::log(value) : value; };
  const auto [left, right] = std::minmax_element(x.begin(), x.end());
  const auto [bottom, top] = std::minmax_element(y.begin(), y.end());
  const double width = std::max(scaled(*right) - scaled(*left), 1e-9);
  const double low = *bottom >= 0 && *top <= 1 ? 0 : *bottom;
  const double high = *bottom >= 0 && *top <= 1 ? 1 : std::max(*top, low + 1e-9);
  std::vector<Point> points;
  std::string ticks;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double position = (scaled(x[i]) - scaled(*left)) / width;
    points.push_back({position, (y[i] - low) / (high - low)});
    ticks += label(x_of(position, 1), kHeight - 10, base::shortest(x[i]), "text-anchor=\"middle\"");
  }
  std::string svg = fmt::format(
      "<figure><svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" role=\"img\" "
      "aria-label=\"{2}\">\n",
      kWidth, kHeight, html_escape(recorded.at("name").get<std::string>()));
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0})
    svg += fmt::format(
               "<line class=\"grid\" x1=\"{0:.0f}\" x2=\"{1:.0f}\" y1=\"{2:.1f}\" "
               "y2=\"{2:.1f}\"/>\n",
               kLeft, kWidth - kRight, y_of(share)) +
           label(kLeft - 6, y_of(share) + 4, base::fixed(low + share * (high - low), 2),
                 "text-anchor=\"end\"");
  std::string path, dots;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::string px = base::fixed(x_of(points[i].epoch, 1), 1);
    const std::string py = base::fixed(y_of(points[i].value), 1);
    path += fmt::format("{}{},{}", path.empty() ? "" : " ", px, py);
    dots += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"3\"><title>{}: {}</title></circle>", px,
                        py, base::shortest(x[i]), base::fixed(y[i], 3));
  }
  svg += ticks +
         fmt::format("<g class=\"curve curve-0\"><polyline points=\"{}\"/>{}</g>\n", path, dots);
  return svg + "</svg>" +
         element("figcaption", fmt::format("{}: {}", row, recorded.at("name").get<std::string>())) +
         "</figure>\n";
}

std::string curves(const nlohmann::json& results) {
  std::string html;
  for (const auto& row : section_of(results, "rows"))
    for (const auto& recorded : section_of(row, "curves"))
      html += plugin_curve(row.value("name", ""), recorded);
  return html.empty() ? "" : "<h2>Recorded by the defenses</h2>\n" + html;
}

/// The ROC curves of the detectors that score images, in one figure.
std::string roc_figure(const nlohmann::json& results) {
  std::string lines, titles;
  std::size_t number = 0;
  for (const auto& detector : section_of(results, "detectors")) {
    const auto& roc = section_of(section_of(detector, "inputs"), "roc");
    if (roc.empty() || roc.at("x").empty()) continue;
    std::string path;
    for (std::size_t i = 0; i < roc.at("x").size(); ++i)
      path += fmt::format("{}{},{}", path.empty() ? "" : " ",
                          base::fixed(x_of(roc.at("x").at(i).get<double>(), 1), 1),
                          base::fixed(y_of(roc.at("y").at(i).get<double>()), 1));
    const std::size_t style = number % kCurveStyles;
    lines +=
        fmt::format("<g class=\"curve curve-{}\"><polyline points=\"{}\"/></g>\n", style, path);
    titles += label(kWidth - kRight + 8, kTop + 14 * static_cast<double>(number + 1),
                    detector.value("name", ""), fmt::format("class=\"label-{}\"", style));
    ++number;
  }
  if (number == 0) return "";
  std::string svg = fmt::format(
      "<figure><svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" role=\"img\" "
      "aria-label=\"ROC curves\">\n",
      kWidth, kHeight);
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0})
    svg += fmt::format(
               "<line class=\"grid\" x1=\"{0:.0f}\" x2=\"{1:.0f}\" y1=\"{2:.1f}\" "
               "y2=\"{2:.1f}\"/>\n",
               kLeft, kWidth - kRight, y_of(share)) +
           label(kLeft - 6, y_of(share) + 4, base::fixed(share, 2), "text-anchor=\"end\"") +
           label(x_of(share, 1), kHeight - 10, base::fixed(share, 2), "text-anchor=\"middle\"");
  return svg + lines + titles + "</svg>" +
         element("figcaption",
                 "triggered images found, by the share of clean test images called "
                 "triggered (ROC curves)") +
         "</figure>\n";
}

// -- results --

std::string result_section(const nlohmann::json& results) {
  const ResultTable table = lay_out_results(results);
  std::string html = "<div class=\"scroll\"><table>\n<tr>";
  for (const auto& name : table.header) html += element("th", name);
  html += "</tr>\n";
  for (const auto& row : table.rows) {
    html += row.marked ? "<tr class=\"warning\">" : "<tr>";
    for (std::size_t c = 0; c < row.cells.size(); ++c)
      html += element("td", row.cells[c], row.best[c] ? "best" : "");
    html += "</tr>\n";
  }
  html += "</table></div>\n";
  for (const auto& line : table.warnings)
    html += element("p", "warning: " + line, "warning") + "\n";
  for (const auto& line : table.definitions) html += element("p", line, "note") + "\n";
  for (const auto& detector : table.detectors) {
    html += element("h2", detector.name) + "\n";
    for (const auto& line : detector.sentences)
      html += element("p", line, detector.suspicious ? "warning" : "") + "\n";
    html += plain_table(detector.classes);
  }
  if (!table.inputs.empty()) html += "<h2>Detection of inputs</h2>\n" + plain_table(table.inputs);
  for (const auto& line : table.input_definitions) html += element("p", line, "note") + "\n";
  html += roc_figure(results);
  for (const auto& line : table.findings) html += element("p", line) + "\n";
  if (table.expectations.empty()) return html;
  html += "<h2>Expectations</h2>\n<ul>\n";
  for (const auto& entry : table.expectations)
    html += "<li>" + element("span", entry.met ? "met" : "not met", entry.met ? "" : "missed") +
            ": " + html_escape(entry.text) + "</li>\n";
  return html + "</ul>\n";
}

// -- audit --

/// Attack success along the paths from the backdoored model, a curve for each model that was
/// audited.
std::string path_figure(const nlohmann::json& audits) {
  constexpr std::size_t kStyles = 8;  // of kStyle
  constexpr double kLine = 16;
  std::string paths, legend;
  std::size_t number = 0;
  for (const auto& entry : audits) {
    std::string path;
    for (const auto& point : section_of(entry, "path"))
      if (const auto t = number_in(point, "t"), rate = number_in(point, "attack_success_rate");
          t && rate)
        path += fmt::format("{}{},{}", path.empty() ? "" : " ", base::fixed(x_of(*t, 1), 1),
                            base::fixed(y_of(*rate), 1));
    if (path.empty()) continue;
    const double y = kHeight + kLine * (0.5 + static_cast<double>(number));
    const std::string style = fmt::format("class=\"curve curve-{}\"", number % kStyles);
    paths += fmt::format("<polyline {} points=\"{}\"/>\n", style, path);
    legend += fmt::format("<polyline {0} points=\"{1:.0f},{2:.0f} {3:.0f},{2:.0f}\"/>\n", style,
                          kLeft, y, kLeft + 32) +
              label(kLeft + 40, y + 4, audited_name(entry), "");
    ++number;
  }
  if (number == 0) return "";
  std::string svg = fmt::format(
      "<figure><svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" role=\"img\" "
      "aria-label=\"attack success on the path\">\n",
      kWidth, kHeight + kLine * static_cast<double>(number + 1));
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0})
    svg += fmt::format(
               "<line class=\"grid\" x1=\"{0:.0f}\" x2=\"{1:.0f}\" y1=\"{2:.1f}\" "
               "y2=\"{2:.1f}\"/>\n",
               kLeft, kWidth - kRight, y_of(share)) +
           label(kLeft - 6, y_of(share) + 4, base::fixed(share, 2), "text-anchor=\"end\"") +
           label(x_of(share, 1), kHeight - 10, base::shortest(share), "text-anchor=\"middle\"");
  return svg + paths + legend + "</svg>" +
         element("figcaption",
                 "attack success of the weights (1 - t) \"no defense\" + t model, by t") +
         "</figure>\n";
}

std::string audit_section(const nlohmann::json& results) {
  const AuditTable table = lay_out_audits(results);
  if (table.rows.empty() && table.notes.empty()) return "";
  std::string html = "<h2>Audit</h2>\n";
  if (!table.rows.empty()) {
    auto lines = table.rows;
    lines.insert(lines.begin(), table.header);
    html += plain_table(lines);
  }
  for (const auto& line : table.notes) html += element("p", "warning: " + line, "warning") + "\n";
  for (const auto& line : table.definitions) html += element("p", line, "note") + "\n";
  return html + path_figure(section_of(results, "audits"));
}

// -- environment --

std::string plain(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.empty()) return "-";
  if (value.is_number_float()) return base::shortest(value.get<double>());
  return value.dump();
}

std::string plugin_table(const nlohmann::json& plugins) {
  std::string html = "<div class=\"scroll\"><table class=\"facts\">\n<tr>";
  const char* const keys[] = {"kind", "name", "version", "path", "sha256"};
  for (const auto* key : keys) html += element("th", key);
  html += "</tr>\n";
  for (const auto& plugin : plugins) {
    html += "<tr>";
    for (const auto* key : keys) html += element("td", plain(section_of(plugin, key)));
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string environment_section(nlohmann::json environment) {
  std::string html;
  if (const auto plugins = environment.find("plugins"); plugins != environment.end()) {
    html += "<h2>Plugins</h2>\n" + plugin_table(*plugins);
    environment.erase(plugins);
  }
  html += "<h2>Environment</h2>\n<div class=\"scroll\"><table class=\"facts\">\n";
  const nlohmann::json flat = environment.flatten();
  for (const auto& [path, value] : flat.items()) {
    std::string key = path.empty() ? path : path.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    html += "<tr>" + element("th", key) + element("td", plain(value)) + "</tr>\n";
  }
  return html + "</table></div>\n";
}

/// FOLDER/NAME.png for each name, under a heading.
std::string gallery(const std::string& heading, const std::string& folder,
                    const std::vector<std::string>& names) {
  std::string html = names.empty() ? "" : element("h2", heading) + "\n";
  for (const auto& name : names)
    html += fmt::format("<figure><img src=\"{}/{}.png\" alt=\"{}: {}\">{}</figure>\n", folder,
                        url_path(name), heading, html_escape(name), element("figcaption", name));
  return html;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : base::with_visible_controls(text)) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string html_report(const ReportContent& content) {
  const std::string name = content.results.value("name", "run");
  std::string html =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n" +
      element("title", name + " - backstop") + "\n<style>" + std::string(kStyle) +
      "</style>\n</head>\n<body>\n" + element("h1", name) + "\n";
  if (const auto seed = content.results.find("seed"); seed != content.results.end())
    html += element("p", "seed " + seed->dump(), "note") + "\n";
  html += result_section(content.results);
  html += audit_section(content.results);

  const auto charts = charts_of(content.metrics);
  if (!charts.empty()) html += "<h2>By epoch</h2>\n";
  for (const auto& chart : charts) html += figure(chart);

  html += curves(content.results);
  if (const auto lines = accuracy_by_class(content.results); !lines.empty())
    html += "<h2>Accuracy by class</h2>\n" + plain_table(lines);

  html += gallery("Triggers", "triggers", content.triggers);
  html += gallery("Found by the plugins", "pictures", content.pictures);

  html += "<h2>Recipe</h2>\n" + element("pre", content.recipe) + "\n";
  return html + environment_section(content.environment) + "</body>\n</html>\n";
}

}  // namespace backstop::report
