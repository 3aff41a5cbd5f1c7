#include "host/report/page.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include "host/base/text.hpp"
#include "host/report/charts.hpp"

namespace backstop::report {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1d2126; --faint: #5a6472; --line: #d5dae1; --page: #ffffff;
  --link: #0b63b5; --warning: #a83f00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --faint: #a3adba; --line: #3a424d; --page: #14181d; --link: #6cb4f5;
    --warning: #ffa366; }
}
* { box-sizing: border-box; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; }
h1 { margin-bottom: 0.3rem; }
section { margin-top: 2.5rem; }
a, summary { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; padding: 0; list-style: none; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--faint); padding-bottom: 0.3rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right;
  font-weight: normal; vertical-align: bottom; }
thead th { border-bottom-color: var(--faint); }
td { white-space: nowrap; }
tbody th { text-align: left; min-width: min(11rem, 35vw); max-width: 20rem; }
thead th:first-child, .facts th, .facts td { text-align: left; }
.facts td, .facts th { overflow-wrap: anywhere; vertical-align: top; white-space: normal; }
.facts tbody th { min-width: 9rem; }
.facts td { min-width: 7rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: inherit;
  cursor: pointer; }
th button::after { content: "\a0\2195"; color: var(--faint); }
th[aria-sort=ascending] button::after { content: "\a0\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: "\a0\2193"; color: inherit; }
abbr { text-decoration: underline dotted; text-underline-offset: 0.2em; }
.best { font-weight: bold; }
.note, .notes { color: var(--faint); font-size: 0.9rem; }
.notes { padding-left: 1.2rem; }
.missed, .warning, .warning th { color: var(--warning); font-weight: bold; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
  gap: 1.5rem; align-items: start; }
figure { margin: 1rem 0; min-width: 0; }
figcaption { margin-top: 0.4rem; color: var(--faint); font-size: 0.9rem; }
figcaption b { color: var(--ink); }
figure img { display: block; box-sizing: content-box; max-width: none; image-rendering: pixelated; border: 1px solid var(--line); }
figure .scroll { margin: 0; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); overflow-wrap: normal;
  font-size: 0.85rem; }
@media print { nav, th button::after { display: none; } .scroll, pre { overflow: visible; }
  pre { white-space: pre-wrap; } figure, tr { break-inside: avoid; } }
)";

/// Puts a button around each column's title. Numbers are compared as numbers, and what is not there
/// comes last.
constexpr std::string_view kScript = R"(
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!cell || cell.textContent === "-") return null;
    const number = Number(cell.dataset.order ?? cell.textContent.replaceAll(",", ""));
    return Number.isNaN(number) ? cell.textContent : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null)
                                                       : (down ? -1 : 1) * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
)";

std::string class_attribute(std::string_view css_class) {
  return css_class.empty() ? "" : fmt::format(" class=\"{}\"", css_class);
}

/// What is wider than the window, in a box that scrolls and that a keyboard can reach.
std::string scrolling(std::string_view html, std::string_view name) {
  return fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}</div>\n",
      html_escape(name), html);
}

std::string base64(std::string_view bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');  // and a zero at its end
  const int size = ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()),
                                     static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(size));
  return text;
}

/// ` width="W" height="H"`, out of the header of a PNG file.
std::string size_attributes(std::string_view png) {
  constexpr std::size_t kWidth = 16, kEnd = 24;
  if (png.size() < kEnd) return "";
  const auto number = [&png](std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t i = at; i < at + 4; ++i)
      value = value << 8U | static_cast<std::uint8_t>(png[i]);
    return value;
  };
  return fmt::format(" width=\"{}\" height=\"{}\"", number(kWidth), number(kWidth + 4));
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

std::string html_element(std::string_view tag, std::string_view text, std::string_view css_class) {
  return fmt::format("<{0}{1}>{2}</{0}>", tag, class_attribute(css_class), html_escape(text));
}

std::string html_table(const HtmlTable& table) {
  if (table.rows.empty()) return "";
  std::string html = fmt::format("<table class=\"sortable{}{}\">\n",
                                 table.css_class.empty() ? "" : " ", table.css_class) +
                     html_element("caption", table.caption) + "\n<thead><tr>";
  for (const HtmlColumn& column : table.columns) {
    const std::string title = html_escape(column.title);
    html += "<th scope=\"col\">" +
            (column.meaning.empty() ? title
                                    : fmt::format("<abbr title=\"{}\">{}</abbr>",
                                                  html_escape(column.meaning), title)) +
            "</th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const HtmlRow& row : table.rows) {
    html += "<tr" + class_attribute(row.css_class) + ">";
    for (std::size_t c = 0; c < row.cells.size(); ++c) {
      const HtmlCell& cell = row.cells[c];
      html += fmt::format("<{}{}{}>{}</{}>", c == 0 ? "th scope=\"row\"" : "td",
                          class_attribute(cell.css_class),
                          cell.order ? fmt::format(" data-order=\"{}\"", *cell.order) : "",
                          html_escape(cell.text), c == 0 ? "th" : "td");
    }
    html += "</tr>\n";
  }
  return scrolling(html + "</tbody></table>", table.caption);
}

std::string html_figure(std::string_view svg, std::string_view title,
                        std::string_view explanation) {
  return fmt::format("<figure>{}<figcaption>{}{}{}</figcaption></figure>\n", svg,
                     html_element("b", title), explanation.empty() ? "" : ": ",
                     html_escape(explanation));
}

std::string html_picture(std::string_view png, std::string_view description,
                         std::string_view caption) {
  return "<figure>" +
         scrolling(fmt::format("<img src=\"data:image/png;base64,{}\"{} alt=\"{}\">", base64(png),
                               size_attributes(png), html_escape(description)),
                   caption) +
         html_element("figcaption", caption) + "</figure>\n";
}

std::string html_figures(const std::vector<std::string>& figures) {
  if (figures.empty()) return "";
  std::string html = "<div class=\"figures\">\n";
  for (const std::string& figure : figures) html += figure;
  return html + "</div>\n";
}

std::string html_notes(const std::vector<std::string>& lines) {
  if (lines.empty()) return "";
  std::string html = "<ul class=\"notes\">\n";
  for (const std::string& line : lines) html += html_element("li", line) + "\n";
  return html + "</ul>\n";
}

std::string html_page(std::string_view title, std::string_view subtitle,
                      const std::vector<HtmlSection>& sections) {
  std::string links, body;
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const HtmlSection& section = sections[i];
    if (section.html.empty()) continue;
    const std::string name = html_escape(section.title);
    links += fmt::format("<li><a href=\"#s{}\">{}</a></li>\n", i, name);
    body += fmt::format("<section id=\"s{}\" aria-label=\"{}\">\n<h2>{}</h2>\n{}</section>\n", i,
                        name, name, section.html);
  }
  return "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n" +
         html_element("title", std::string(title) + " - backstop") + "\n<style>" +
         std::string(kStyle) + chart_style() + "</style>\n</head>\n<body>\n<header>\n" +
         html_element("h1", title) + "\n" +
         (subtitle.empty() ? "" : html_element("p", subtitle, "note") + "\n") +
         "<nav aria-label=\"sections\"><ul>\n" + links + "</ul></nav>\n</header>\n<main>\n" + body +
         "</main>\n<script>" + std::string(kScript) + "</script>\n</body>\n</html>\n";
}

}  // namespace backstop::report
