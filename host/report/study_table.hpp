// The tables of a study before they are text, and as Markdown, LaTeX, CSV and text. report.html is
// made in study_page.hpp.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/report/study.hpp"

namespace backstop::report {

struct StudyTable {
  struct Cell {
    std::string text;             ///< "0.912 ± 0.003"; a minus is U+2212
    std::optional<double> value;  ///< to sort by
    bool best = false;
  };
  struct Line {
    std::vector<Cell> cells;
    bool first_of_block = false;
    bool marked = false;  ///< a note says why
  };
  std::string name;  ///< "results", "intervals", "differences", "published"
  std::string caption;
  std::vector<std::string> header;
  std::size_t conditions =
      0;                  ///< so many first columns are the block's; the next is the row's name
  std::size_t texts = 0;  ///< so many first columns are text
  std::vector<Line> lines;
  std::vector<std::string> notes;  ///< below it
};

/// Mean and standard deviation of each metric.
StudyTable results_table(const Study& study);
/// Mean and 95 % interval.
StudyTable intervals_table(const Study& study);
/// Mean difference from the baseline and its 95 % interval.
StudyTable differences_table(const Study& study);
/// The three, without those that would be empty.
std::vector<StudyTable> tables_of(const Study& study);

std::string markdown(const StudyTable& table);
/// A `table` that needs the package booktabs, to be included by a paper.
std::string latex(const StudyTable& table);
/// For a terminal.
std::string plain_text(const StudyTable& table, bool color);

/// A line for each row of a table, with columns METRIC, METRIC_standard_deviation, ...
std::string wide_csv(const Study& study);
/// A line for each row and metric.
std::string tidy_csv(const Study& study);
/// A line for each row, metric and run.
std::string values_csv(const Study& study);

/// Text in LaTeX and in Markdown, which shows what it says and does nothing else.
std::string latex_escape(std::string_view text);
std::string markdown_escape(std::string_view text);

}  // namespace backstop::report
