#include "host/report/html.hpp"

#include <algorithm>
#include <optional>
#include <sstream>

#include "host/base/text.hpp"
#include "host/report/fields.hpp"
#include "host/report/table.hpp"

namespace backstop::report {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1d2126; --faint: #667080; --line: #d5dae1; --page: #ffffff;
  --clean: #0b63b5; --attack: #b8480a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --faint: #98a2b0; --line: #3a424d; --page: #14181d; --clean: #6cb4f5;
    --attack: #f79a5c; }
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
.missed { color: var(--attack); font-weight: bold; }
figure { display: inline-block; margin: 0 1.5rem 1.5rem 0; vertical-align: top; }
figure img { display: block; width: 10rem; image-rendering: pixelated; border: 1px solid var(--line); }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 12px; }
.grid { stroke: var(--line); }
.clean, .attack { fill: none; stroke-width: 2; }
.clean { stroke: var(--clean); }
.attack { stroke: var(--attack); stroke-dasharray: 6 3; }
.clean circle, .attack circle { stroke: none; }
.clean circle { fill: var(--clean); }
.attack circle { fill: var(--attack); }
svg .clean-label { fill: var(--clean); }
svg .attack-label { fill: var(--attack); }
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

std::string result_section(const nlohmann::json& results) {
  const ResultTable table = lay_out_results(results);
  std::string html = "<div class=\"scroll\"><table>\n<tr>";
  for (const auto& name : table.header) html += element("th", name);
  html += "</tr>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (std::size_t c = 0; c < row.cells.size(); ++c)
      html += element("td", row.cells[c], row.best[c] ? "best" : "");
    html += "</tr>\n";
  }
  html += "</table></div>\n";
  for (const auto& line : table.definitions) html += element("p", line, "note") + "\n";
  for (const auto& line : table.findings) html += element("p", line) + "\n";
  if (table.expectations.empty()) return html;
  html += "<h2>Expectations</h2>\n<ul>\n";
  for (const auto& entry : table.expectations)
    html += "<li>" + element("span", entry.met ? "met" : "not met", entry.met ? "" : "missed") +
            ": " + html_escape(entry.text) + "</li>\n";
  return html + "</ul>\n";
}

// -- curves --

constexpr double kLeft = 44, kRight = 120, kTop = 12, kBottom = 30, kWidth = 640, kHeight = 240;

struct Point {
  double epoch, value;
};

struct Curve {
  std::string stage, name;
  std::vector<Point> clean_accuracy, attack_success;
  double last_epoch = 1;
};

std::vector<Curve> curves_of(const std::string& metrics) {
  std::vector<Curve> curves;
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line, nullptr, false);
    if (!event.is_object() || event.value("event", "epoch") != "epoch") continue;
    const auto epoch = number_in(event, "epoch");
    if (!epoch) continue;
    const auto stage = event.value("stage", "");
    const auto name = event.value("name", "");
    auto curve = std::find_if(curves.begin(), curves.end(), [&](const Curve& one) {
      return one.stage == stage && one.name == name;
    });
    if (curve == curves.end()) {
      curves.push_back({stage, name, {}, {}});
      curve = std::prev(curves.end());
    }
    curve->last_epoch = std::max(curve->last_epoch, *epoch);
    if (const auto value = number_in(event, "clean_accuracy"))
      curve->clean_accuracy.push_back({*epoch, *value});
    if (const auto value = number_in(event, "attack_success_rate"))
      curve->attack_success.push_back({*epoch, *value});
  }
  return curves;
}

double x_of(double epoch, double last_epoch) {
  return kLeft + (kWidth - kLeft - kRight) * epoch / last_epoch;
}

double y_of(double share) {
  return kTop + (kHeight - kTop - kBottom) * (1 - share);
}

std::string label(double x, double y, const std::string& text, const std::string& attributes) {
  return "<text x=\"" + base::fixed(x, 1) + "\" y=\"" + base::fixed(y, 1) + "\" " + attributes +
         ">" + html_escape(text) + "</text>\n";
}

std::string line(const std::vector<Point>& points, double last_epoch, const std::string& css_class,
                 const std::string& what) {
  std::string path, dots;
  for (const auto& point : points) {
    const std::string x = base::fixed(x_of(point.epoch, last_epoch), 1);
    const std::string y = base::fixed(y_of(point.value), 1);
    path += (path.empty() ? "" : " ") + x + "," + y;
    dots += "<circle cx=\"" + x + "\" cy=\"" + y + "\" r=\"3\"><title>" +
            html_escape(what + " at epoch " + base::fixed(point.epoch, 0) + ": " +
                        base::fixed(point.value, 3)) +
            "</title></circle>";
  }
  return "<g class=\"" + css_class + "\"><polyline points=\"" + path + "\"/>" + dots + "</g>\n";
}

std::string figure(const Curve& curve) {
  const std::string title = "[" + curve.stage + "] " + curve.name;
  std::string svg = "<figure><svg viewBox=\"0 0 " + base::fixed(kWidth, 0) + " " +
                    base::fixed(kHeight, 0) + "\" width=\"" + base::fixed(kWidth, 0) +
                    "\" role=\"img\" aria-label=\"" +
                    html_escape(title + ": clean accuracy and attack success by epoch") + "\">\n";
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0}) {
    const std::string y = base::fixed(y_of(share), 1);
    svg += "<line class=\"grid\" x1=\"" + base::fixed(kLeft, 0) + "\" x2=\"" +
           base::fixed(kWidth - kRight, 0) + "\" y1=\"" + y + "\" y2=\"" + y + "\"/>\n" +
           label(kLeft - 6, y_of(share) + 4, base::fixed(share, 2), "text-anchor=\"end\"");
  }
  svg +=
      label(x_of(0, 1), kHeight - 10, "0", "text-anchor=\"middle\"") +
      label(x_of(0.5, 1), kHeight - 10, "epoch", "text-anchor=\"middle\"") +
      label(x_of(1, 1), kHeight - 10, base::fixed(curve.last_epoch, 0), "text-anchor=\"middle\"") +
      line(curve.clean_accuracy, curve.last_epoch, "clean", "clean accuracy") +
      line(curve.attack_success, curve.last_epoch, "attack", "attack success");
  // Each curve is named at its end; two that end close together are kept a line apart.
  std::optional<double> clean_y, attack_y;
  if (!curve.clean_accuracy.empty()) clean_y = y_of(curve.clean_accuracy.back().value);
  if (!curve.attack_success.empty()) attack_y = y_of(curve.attack_success.back().value);
  if (clean_y && attack_y) {
    constexpr double kApart = 14;
    double& upper = *clean_y <= *attack_y ? *clean_y : *attack_y;
    double& lower = *clean_y <= *attack_y ? *attack_y : *clean_y;
    if (lower - upper < kApart) {
      const double middle = (upper + lower) / 2;
      upper = middle - kApart / 2;
      lower = middle + kApart / 2;
    }
  }
  const double x = kWidth - kRight + 8;
  if (clean_y) svg += label(x, *clean_y + 4, "clean accuracy", "class=\"clean-label\"");
  if (attack_y) svg += label(x, *attack_y + 4, "attack success", "class=\"attack-label\"");
  return svg + "</svg>" + element("figcaption", title) + "</figure>\n";
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
    html += "<figure><img src=\"" + folder + "/" + url_path(name) + ".png\" alt=\"" +
            html_escape(heading + ": " + name) + "\">" + element("figcaption", name) +
            "</figure>\n";
  return html;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
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

  const auto curves = curves_of(content.metrics);
  if (!curves.empty()) html += "<h2>By epoch</h2>\n";
  for (const auto& curve : curves) html += figure(curve);

  html += gallery("Triggers", "triggers", content.triggers);
  html += gallery("What defenses found", "pictures", content.pictures);

  html += "<h2>Recipe</h2>\n" + element("pre", content.recipe) + "\n";
  return html + environment_section(content.environment) + "</body>\n</html>\n";
}

}  // namespace backstop::report
