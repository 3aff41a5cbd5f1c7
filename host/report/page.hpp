// Pages of HTML that are one file: no script, style, font or picture of theirs lies elsewhere. They
// follow the reader's choice of light or dark, fit narrow windows (what is wide scrolls in a box of
// its own) and can be used with a keyboard and a screen reader. All texts are escaped here, unless
// they are called HTML or SVG.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace backstop::report {

std::string html_escape(std::string_view text);

/// <TAG class="CSS_CLASS">TEXT</TAG>
std::string html_element(std::string_view tag, std::string_view text,
                         std::string_view css_class = {});

struct HtmlColumn {
  std::string title;
  std::string meaning = {};  ///< shown when somebody points at the title
};
struct HtmlCell {
  std::string text;
  std::string_view css_class = {};   ///< "best" is bold
  std::optional<double> order = {};  ///< what to sort by, where it is not the number in the text
};
struct HtmlRow {
  std::vector<HtmlCell> cells;      ///< the first is the row's title
  std::string_view css_class = {};  ///< "warning" is set off
};
struct HtmlTable {
  std::string caption;
  std::vector<HtmlColumn> columns = {};
  std::vector<HtmlRow> rows = {};
  std::string_view css_class = {};  ///< "facts" is a table of texts, with lines that may break
};
/// Its columns can be sorted. Empty without rows.
std::string html_table(const HtmlTable& table);

/// A chart (charts.hpp) or other HTML over its title and what there is to see.
std::string html_figure(std::string_view svg, std::string_view title,
                        std::string_view explanation = {});
/// A picture in the page. One that is wider than the window scrolls.
std::string html_picture(std::string_view png, std::string_view description,
                         std::string_view caption);
/// Figures beside each other where there is room.
std::string html_figures(const std::vector<std::string>& figures);
/// Lines of notes in small print; empty without any.
std::string html_notes(const std::vector<std::string>& lines);

struct HtmlSection {
  std::string title;
  std::string html;  ///< a section without any is left out
};
/// `subtitle` may be empty.
std::string html_page(std::string_view title, std::string_view subtitle,
                      const std::vector<HtmlSection>& sections);

}  // namespace backstop::report
