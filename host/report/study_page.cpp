#include "host/report/study_page.hpp"

#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <sstream>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/report/page.hpp"

namespace backstop::report {
namespace {

/// Longest name of a row that is not broken.
constexpr std::size_t kLongestLine = 32;

/// A mean stays beside its spread, and an interval in one line.
std::string kept_together(const std::string& number) {
  std::string text;
  for (std::size_t i = 0; i < number.size(); ++i) {
    const bool before_bracket = number.compare(i, 2, " [") == 0 || number.compare(i, 2, " (") == 0;
    if (number[i] == ' ' && !before_bracket)
      text += "\u00a0";
    else
      text += number[i];
  }
  return text;
}

/// The conditions that are the same in all lines; they are said once.
std::vector<bool> constant_columns(const StudyTable& table) {
  std::vector<bool> constant(table.header.size());
  for (std::size_t c = 0; c < table.conditions; ++c)
    constant[c] = std::all_of(table.lines.begin(), table.lines.end(), [&](const auto& line) {
      return line.cells[c].text == table.lines[0].cells[c].text;
    });
  return constant;
}

std::string table_section(const StudyTable& table) {
  if (table.lines.empty()) return html_notes(table.notes);
  const std::vector<bool> constant = constant_columns(table);
  // The row's name comes first: it is what a screen reader calls the line.
  std::vector<std::size_t> columns{table.conditions};
  HtmlTable html{.caption = table.caption};
  for (std::size_t c = 0; c < table.header.size(); ++c) {
    if (constant[c])
      html.caption += fmt::format(", {}: {}", table.header[c], table.lines[0].cells[c].text);
    else if (c != table.conditions)
      columns.push_back(c);
  }
  for (const std::size_t c : columns) html.columns.push_back({table.header[c]});
  for (const auto& line : table.lines) {
    HtmlRow row;
    for (const std::size_t c : columns) {
      const auto& cell = line.cells[c];
      const bool in_one_line =
          cell.value || (c == table.conditions && cell.text.size() <= kLongestLine);
      row.cells.push_back({in_one_line ? kept_together(cell.text) : cell.text,
                           cell.best ? "best" : "", cell.value});
    }
    row.css_class = line.marked ? "warning" : "";
    html.rows.push_back(std::move(row));
  }
  return html_table(html) + html_notes(table.notes);
}

// -- tables in a text --

constexpr std::string_view kBegin = "<!-- backstop report ",
                           kEnd = "<!-- end of backstop report -->";

struct Request {
  std::vector<std::filesystem::path> folders;
  StudyOptions options;
  std::vector<std::string> tables;
};

[[noreturn]] void fail(const std::string& line, const std::string& why) {
  throw base::HostError(
      base::ExitCode::usage, fmt::format("{} {}", base::ticked(base::shortened(line, 200)), why),
      "a table's place is `<!-- backstop report FOLDER -->` and `<!-- end of backstop report -->`");
}

Request parse_request(const std::string& line, const std::filesystem::path& folder) {
  const auto end = line.rfind("-->");
  if (end == std::string::npos || end < kBegin.size()) fail(line, "does not end in `-->`");
  std::istringstream words(line.substr(kBegin.size(), end - kBegin.size()));
  Request request;
  const auto next = [&](const std::string& option) {
    std::string value;
    if (!(words >> std::quoted(value))) fail(line, fmt::format("has no value for `{}`", option));
    return value;
  };
  for (std::string word; words >> std::quoted(word);) {
    if (word == "--baseline")
      request.options.baseline = next(word);
    else if (word == "--ignore")
      request.options.ignored.push_back(next(word));
    else if (word.starts_with("--"))
      fail(line, fmt::format("has an option `{}`, which is not known", word));
    else if (word == "results" || word == "intervals" || word == "differences")
      request.tables.push_back(word);
    else
      request.folders.push_back(folder / word);
  }
  if (request.folders.empty()) fail(line, "names no folder");
  if (request.tables.empty()) request.tables = {"results"};
  return request;
}

std::string tables_for(const std::string& line, const std::filesystem::path& folder) {
  Request request = parse_request(line, folder);
  const Study study = make_study(find_runs(request.folders), request.options);
  if (study.runs.empty()) fail(line, "finds no run that can be counted");
  std::string text;
  for (const auto& table : tables_of(study)) {
    if (std::find(request.tables.begin(), request.tables.end(), table.name) == request.tables.end())
      continue;
    if (!text.empty()) text += '\n';
    text += markdown(table);
  }
  if (text.empty()) fail(line, "asks for a table that would be empty");
  if (!study.omitted.empty())
    fail(line, fmt::format("cannot count {}: {}", study.omitted.front().folder,
                           study.omitted.front().reason));
  return text;
}

}  // namespace

std::string study_page(const Study& study, const std::vector<StudyTable>& tables,
                       const std::vector<StudyFigure>& figures) {
  std::vector<HtmlSection> sections;
  for (const auto& table : tables) sections.push_back({table.caption, table_section(table)});
  std::string drawings;
  for (const auto& figure : figures) drawings += html_figure(figure.svg, figure.title, figure.text);
  sections.push_back({"Figures", drawings});
  sections.push_back({"What was counted", html_notes(study.notes)});
  return html_page("Report", base::count_of(study.runs.size(), "run"), sections);
}

std::string study_markdown(const Study& study, const std::vector<StudyTable>& tables) {
  std::string text;
  for (const auto& table : tables)
    text += "## " + markdown_escape(table.caption) + "\n\n" + markdown(table) + '\n';
  text += "## What was counted\n\n";
  for (const auto& note : study.notes) text += "* " + markdown_escape(note) + '\n';
  return text;
}

std::string study_latex(const std::vector<StudyTable>& tables) {
  std::string text = "% Tables for \\input; they need \\usepackage{booktabs}.\n";
  for (const auto& table : tables) text += '\n' + latex(table);
  return text;
}

std::string with_tables(const std::string& text, const std::filesystem::path& folder) {
  std::string result;
  std::istringstream lines(text);
  std::string open;  // the line whose end is not yet there
  bool fenced = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) fenced = !fenced;
    if (!fenced && line.starts_with(kBegin)) {
      if (!open.empty()) fail(open, "has no end before the next one");
      open = line;
      result += line + "\n\n" + tables_for(line, folder) + '\n';
    } else if (line.starts_with(kEnd) && !open.empty()) {
      open.clear();
    }
    if (open.empty()) result += line + '\n';
  }
  if (!open.empty()) fail(open, "has no end");
  return result;
}

}  // namespace backstop::report
