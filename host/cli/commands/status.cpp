// backstop status: what is done, running, failed or waiting below a folder.
#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <system_error>

#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/cli/command.hpp"
#include "host/cli/run_states.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kDescription =
    "Shows what became of the runs below DIR: a folder that was given as --out, one run, or the "
    "folder\n"
    "of a sweep, whose tasks Slurm is asked about, too. A run counts as running while its process "
    "lives.\n"
    "Of several runs of one recipe, one that finished counts, else the latest.\n"
    "\n"
    "Exit status: 0 when everything has finished, 6 while something runs or waits, otherwise 1.\n";

void add_options(boost::program_options::options_description& options) {
  options.add_options()("only",
                        boost::program_options::value<std::vector<std::string>>()->value_name("N"),
                        "of a sweep, only combination N, without asking Slurm");
}

/// `--only`, or 0.
std::size_t only(const Invocation& invocation, const Sweep* sweep) {
  const auto text = invocation.one("only");
  if (!text) return 0;
  if (sweep == nullptr)
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("`--only` is for a sweep, but {} is not the folder of one",
                                      invocation.arguments[0]),
                          "sweeps are in the folder `sweeps` below --out");
  std::size_t number = 0;
  const char* const end = text->data() + text->size();
  const auto [last, error] = std::from_chars(text->data(), end, number);
  if (error != std::errc{} || last != end || number < 1 || number > sweep->combinations.size())
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("option `--only` must be a number between 1 and {}, got `{}`",
                                      sweep->combinations.size(), *text));
  return number;
}

std::string_view style_of(RunState state) {
  switch (state) {
    case RunState::finished:
      return base::kGreen;
    case RunState::running:
      return base::kCyan;
    case RunState::failed:
    case RunState::killed:
      return base::kRed;
    case RunState::interrupted:
    case RunState::unknown:
      return base::kYellow;
    case RunState::waiting:
      break;
  }
  return {};
}

struct Row {
  std::size_t number = 0;  ///< of a combination; 0: none
  const RunView* run = nullptr;
};

/// "2 finished, 1 running"
std::string counts_text(const std::vector<Row>& rows) {
  constexpr std::array kStates = {RunState::finished, RunState::running,     RunState::waiting,
                                  RunState::failed,   RunState::interrupted, RunState::killed,
                                  RunState::unknown};
  std::string text;
  for (const RunState state : kStates)
    if (const auto n = std::count_if(rows.begin(), rows.end(),
                                     [&](const Row& row) { return row.run->state == state; });
        n > 0)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", n, to_string(state));
  return text.empty() ? "no runs" : text;
}

std::string table(const std::vector<Row>& rows, const fs::path& folder, bool color) {
  std::vector<std::vector<base::Cell>> cells;
  for (const auto& [number, run] : rows) {
    std::vector<base::Cell> line;
    if (number != 0) line.push_back({std::to_string(number)});
    std::error_code error;
    const fs::path shown = fs::relative(run->folder, folder, error);
    const std::string what = run->group.empty() ? run->name : run->group;
    line.push_back({std::string(to_string(run->state)), color ? style_of(run->state) : ""});
    line.push_back({base::printable(what)});
    line.push_back({fmt::format("seed {}", run->seed)});
    line.push_back(
        {base::printable(run->folder.empty() || error ? run->folder.string() : shown.string())});
    line.push_back({base::shortened(base::printable(run->detail), 100)});
    cells.push_back(std::move(line));
  }
  const bool numbered = !rows.empty() && rows[0].number != 0;
  return base::columns(cells, numbered ? "rlllll" : "lllll");
}

json to_json(const Row& row) {
  const RunView& run = *row.run;
  const auto text = [](const std::string& value) { return value.empty() ? json() : json(value); };
  json task;
  if (run.task)
    task = {{"job", run.task->job}, {"state", run.task->state}, {"reason", text(run.task->reason)}};
  return {{"combination", row.number == 0 ? json() : json(row.number)},
          {"state", to_string(run.state)},
          {"name", run.name},
          {"group", text(run.group)},
          {"seed", run.seed},
          {"run", text(run.folder.string())},
          {"started", text(run.started)},
          {"detail", text(run.detail)},
          {"slurm", task}};
}

base::ExitCode exit_code_of(const std::vector<Row>& rows) {
  constexpr auto kNotYet = static_cast<base::ExitCode>(6);
  const auto any = [&](auto... states) {
    return std::any_of(rows.begin(), rows.end(),
                       [&](const Row& row) { return ((row.run->state == states) || ...); });
  };
  if (any(RunState::running, RunState::waiting)) return kNotYet;
  return any(RunState::failed, RunState::interrupted, RunState::killed, RunState::unknown)
             ? base::ExitCode::failed
             : base::ExitCode::done;
}

/// A line about each sweep below `folder`.
std::string sweeps_text(const fs::path& folder) {
  std::string text;
  std::error_code error;
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(folder / kSweepsFolder, error))
    if (fs::is_regular_file(entry.path() / kSweepFile, error)) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  for (const fs::path& sweep : folders)
    text += fmt::format("sweep {}: `backstop status` of this folder asks Slurm, too\n",
                        base::printable(sweep.string()));
  return text;
}

base::ExitCode status(const Invocation& invocation) {
  const fs::path folder = invocation.arguments[0];
  std::error_code error;
  if (!fs::is_directory(folder, error))
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("there is no folder {}", folder.string()),
                          "name what was given to `backstop run --out`; it is `runs` by default");
  const bool of_sweep = fs::is_regular_file(folder / kSweepFile, error);
  std::optional<Sweep> sweep;
  if (of_sweep) sweep = read_sweep(folder);
  const std::size_t number = only(invocation, sweep ? &*sweep : nullptr);

  SweepStates states;
  std::size_t hidden = 0;
  if (sweep && number == 0) {
    states = states_of(*sweep);
  } else if (sweep) {
    states.views = runs_of(*sweep, number);
  } else {
    auto all = runs_below(folder);
    const std::size_t count = all.size();
    states.views = current_runs(std::move(all));
    hidden = count - states.views.size();
  }
  std::vector<Row> rows;
  for (std::size_t i = 0; i < states.views.size(); ++i)
    if (number == 0 || number == i + 1) rows.push_back({sweep ? i + 1 : 0, &states.views[i]});

  if (invocation.has("json")) {
    json list = json::array();
    for (const Row& row : rows) list.push_back(to_json(row));
    print_json({{"schema", 1},
                {"folder", folder.string()},
                {"sweep", of_sweep},
                {"slurm", states.slurm_answered},
                {"runs", list},
                {"earlier_runs", hidden}},
               true);
    return exit_code_of(rows);
  }
  std::string text =
      table(rows, sweep ? sweep->out : folder, invocation.color_out) + counts_text(rows) + "\n";
  if (hidden > 0)
    text +=
        fmt::format("{} of the same recipes not shown\n", base::count_of(hidden, "earlier run"));
  print(text + (sweep ? "" : sweeps_text(folder)));
  if (sweep && number == 0 && !sweep->jobs.empty() && !states.slurm_answered)
    spdlog::warn("Slurm did not answer: this is what the folders of the runs say");
  return exit_code_of(rows);
}

}  // namespace

const Command kStatus{"status",    "show which runs have finished, run, wait or failed",
                      "DIR",       kDescription,
                      add_options, status};

}  // namespace backstop::cli
