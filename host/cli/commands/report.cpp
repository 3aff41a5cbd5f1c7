// backstop report: puts the runs of several folders together.
#include <filesystem>

#include <boost/program_options/value_semantic.hpp>
#include <nlohmann/json.hpp>

#include "host/base/files.hpp"
#include "host/base/text.hpp"
#include "host/cli/command.hpp"
#include "host/report/charts.hpp"
#include "host/report/published.hpp"
#include "host/report/report_folder.hpp"
#include "host/report/study.hpp"
#include "host/report/study_page.hpp"
#include "host/report/study_table.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;
namespace po = boost::program_options;

constexpr const char* kDescription =
    "Reads finished runs, whatever machines and days they come from, and writes their means, "
    "spreads\n"
    "and differences to a folder: a page with figures, Markdown, LaTeX and CSV. DIR is the folder "
    "of\n"
    "a run, or holds such folders, as `runs` does. The table of results goes to standard output. "
    "Runs\n"
    "that did not finish or cannot be read are named and left out. See docs/report.md.\n";

constexpr std::uintmax_t kLargestText = std::uintmax_t{16} << 20;

void add_options(po::options_description& options) {
  auto add = options.add_options();
  const auto words = [](const char* name) {
    return po::value<std::vector<std::string>>()->value_name(name);
  };
  add("out", words("DIR"), "write the report to DIR instead of `backstop-report`");
  add("baseline", words("ROW"), "compare each row with ROW, seed by seed, instead of `no defense`");
  add("ignore", words("KEY"), "count runs that differ only in KEY as repetitions; may be repeated");
  add("published", words("FILE.csv"), "set beside the results those of a leaderboard in FILE.csv");
  add("update", words("FILE.md"), "write only the tables that FILE.md has places for");
}

/// The tables in a text of the user's; everything else in it stays.
base::ExitCode update(const Invocation& invocation, const fs::path& file) {
  for (const char* option : {"out", "baseline", "ignore", "published", "json"})
    if (invocation.has(option))
      throw base::HostError(base::ExitCode::usage,
                            fmt::format("`--update` and `--{}` do not go together", option));
  if (!invocation.arguments.empty())
    throw base::HostError(base::ExitCode::usage, "`--update` takes no DIR",
                          "the places in the file name their own folders");
  const std::string before = base::read_file(file, kLargestText);
  const std::string after = report::with_tables(before, file.parent_path());
  if (after != before) base::write_file(fs::canonical(file), after);
  spdlog::info("{} {}", after == before ? "nothing new in" : "wrote",
               base::printable(file.string()));
  return base::ExitCode::done;
}

void warn(const report::FoundRuns& found) {
  for (const auto& [folder, reason] : found.omitted)
    spdlog::warn("not counted: {}: {}", base::printable(folder), base::printable(reason));
  for (const auto& [folder, other] : found.repeated)
    spdlog::warn("not counted again: {} has the recipe and the results of {}",
                 base::printable(folder), base::printable(other));
  for (const auto& [folder, reason] : found.doubtful)
    spdlog::warn("counted, but {}: {}", base::printable(reason), base::printable(folder));
}

report::ReportFiles files_of(const report::Study& study,
                             const std::vector<report::StudyTable>& tables,
                             const std::vector<report::StudyFigure>& figures) {
  report::ReportFiles files{{"report.html", report::study_page(study, tables, figures)},
                            {"tables.md", report::study_markdown(study, tables)},
                            {"tables.tex", report::study_latex(tables)},
                            {"results.csv", report::wide_csv(study)},
                            {"results-tidy.csv", report::tidy_csv(study)},
                            {"values.csv", report::values_csv(study)}};
  for (const auto& figure : figures) files["figures/" + figure.name + ".svg"] = figure.svg;
  return files;
}

/// The figures as PDF beside the SVG, where a program can draw them.
void draw_pdfs(const std::vector<report::StudyFigure>& figures, const fs::path& folder) {
  for (const auto& figure : figures) {
    const fs::path file = folder / "figures" / figure.name;
    const std::string why = report::write_pdf(file.string() + ".svg", file.string() + ".pdf");
    if (why.empty()) continue;
    spdlog::info("no PDF of the figures: {}", base::printable(why));
    return;
  }
}

base::ExitCode report_on(const Invocation& invocation) {
  if (const auto file = invocation.one("update")) return update(invocation, *file);
  if (invocation.arguments.empty())
    throw base::HostError(base::ExitCode::usage, "`report` needs a DIR",
                          "name a folder of runs, such as `runs`");
  const fs::path out = invocation.one("out").value_or("backstop-report");
  if (out.empty()) throw base::HostError(base::ExitCode::usage, "--out is empty", "name a folder");
  report::check_report_folder(out);
  report::FoundRuns found =
      report::find_runs({invocation.arguments.begin(), invocation.arguments.end()});
  warn(found);
  if (found.runs.empty())
    throw base::HostError(base::ExitCode::environment, "there is no finished run to report on",
                          "name folders of runs, or folders that hold some, such as `runs`");
  report::StudyOptions options;
  if (const auto baseline = invocation.one("baseline")) options.baseline = *baseline;
  options.ignored = invocation.all("ignore");
  const auto file = invocation.one("published");
  const auto published = file ? std::optional(report::read_published(*file)) : std::nullopt;
  const report::Study study = report::make_study(std::move(found), std::move(options));
  auto tables = report::tables_of(study);
  if (published) tables.push_back(report::published_table(study, *published));
  const auto figures = report::figures_of(study);
  nlohmann::json json = json_of(study);
  report::ReportFiles files = files_of(study, tables, figures);
  if (published) {
    json["published"] = json_of(tables.back());
    files["published.csv"] = report::csv_of(tables.back());
  }
  files[report::kReportMark] = base::json_text(json, 2) + '\n';
  report::write_report_folder(out, files,
                              [&](const fs::path& folder) { draw_pdfs(figures, folder); });
  if (invocation.has("json")) {
    print_json(json, true);
  } else {
    print(report::plain_text(tables.front(), invocation.color_out));
    if (published) print('\n' + report::plain_text(tables.back(), invocation.color_out));
  }
  spdlog::info("wrote {}", base::printable(out.string()));
  return base::ExitCode::done;
}

}  // namespace

const Command kReport{"report",    "put many runs together: tables and figures of their means",
                      "[DIR...]",  kDescription,
                      add_options, report_on};

}  // namespace backstop::cli
