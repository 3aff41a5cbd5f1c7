// A study as a page, as Markdown and as LaTeX.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "host/report/study.hpp"
#include "host/report/study_figures.hpp"
#include "host/report/study_table.hpp"

namespace backstop::report {

/// report.html: one file without anything from elsewhere.
std::string study_page(const Study& study, const std::vector<StudyTable>& tables,
                       const std::vector<StudyFigure>& figures);
/// tables.md
std::string study_markdown(const Study& study, const std::vector<StudyTable>& tables);
/// tables.tex
std::string study_latex(const std::vector<StudyTable>& tables);

/// The tables of runs in a text in Markdown, each between two lines:
///
///     <!-- backstop report FOLDER [--baseline ROW] [--ignore KEY] [TABLE...] -->
///     <!-- end of backstop report -->
///
/// FOLDER is relative to `folder`; a ROW with spaces is in double quotes; TABLE is results, intervals
/// or differences, by default results alone. Returns the text with the tables written anew. Throws
/// HostError(usage) where a line is not understood, has no end, or FOLDER has no runs.
std::string with_tables(const std::string& text, const std::filesystem::path& folder);

}  // namespace backstop::report
