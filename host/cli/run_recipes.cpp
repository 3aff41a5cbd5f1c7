#include "host/cli/run_recipes.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <utility>

#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>

#include "host/base/cores.hpp"
#include "host/base/memory.hpp"
#include "host/base/text.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/engine_process.hpp"
#include "host/cli/observer.hpp"
#include "host/cli/plugin_probe.hpp"
#include "host/cli/process_end.hpp"
#include "host/cli/signals.hpp"

namespace backstop::cli {

void add_run_options(boost::program_options::options_description& options) {
  auto add = options.add_options();
  add("out", boost::program_options::value<std::vector<std::string>>()->value_name("DIR"),
      "write the run below DIR instead of `runs`");
  add("fresh", "ignore cached stages and retrain");
  add("stall-limit", boost::program_options::value<std::vector<std::string>>()->value_name("N"),
      "end a stage after N s without a sign of life; 0: never; left out: 3600");
  add("one-process", "run in one process, for debuggers: a plugin that crashes ends it");
  add("verbose,v", "print more detail");
}

void add_jobs_option(boost::program_options::options_description& options) {
  options.add_options()("jobs",
                        boost::program_options::value<std::vector<std::string>>()->value_name("N"),
                        "run N combinations of a matrix side by side; left out: as many as fit");
}

std::string out_folder(const Invocation& invocation) {
  std::string out = invocation.one("out").value_or("runs");
  if (out.empty()) throw base::HostError(base::ExitCode::usage, "--out is empty", "name a folder");
  return out;
}

namespace {

/// The whole number that `option` gives; `left_out` stands for no option.
long number_of(const Invocation& invocation, const char* option, const std::string& left_out,
               long least, long most, const char* what) {
  const std::string text = invocation.one(option).value_or(left_out);
  try {
    std::size_t end = 0;
    const long number = std::stol(text, &end);
    if (end == text.size() && number >= least && number <= most) return number;
  } catch (const std::logic_error&) {  // not a number: the error below
  }
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("option `--{}` must be a whole number {}between {} and {}, got `{}`", option,
                  what, least, most, text));
}

/// Whether a run of the recipe may compute on a GPU, as far as one can tell without LibTorch.
bool may_use_gpu(const recipe::Recipe& recipe) {
  std::error_code error;
  return recipe.compute.device != "cpu" && std::filesystem::exists("/dev/nvidiactl", error);
}

std::size_t default_jobs(const std::vector<recipe::Recipe>& recipes) {
  constexpr std::int64_t kMemory = std::int64_t{3} << 30;
  if (std::any_of(recipes.begin(), recipes.end(), may_use_gpu)) return 1;
  const auto fit = std::max<std::int64_t>(1, base::available_memory().bytes / kMemory);
  return std::min({recipes.size(), static_cast<std::size_t>(base::available_cores()),
                   static_cast<std::size_t>(fit)});
}

std::size_t jobs_of(const Invocation& invocation, const std::vector<recipe::Recipe>& recipes) {
  constexpr long kMost = 1024;
  if (!invocation.has("jobs")) return invocation.has("one-process") ? 1 : default_jobs(recipes);
  const long jobs = number_of(invocation, "jobs", "", 1, kMost, "");
  if (jobs > 1 && invocation.has("one-process"))
    throw base::HostError(base::ExitCode::usage,
                          "`--jobs` and `--one-process` contradict each other",
                          "leave one of them out");
  return std::min(recipes.size(), static_cast<std::size_t>(jobs));
}

/// Where a recipe leaves the number of threads open, each of `jobs` gets its share of the cores. It
/// becomes part of the recipe that a run records, because results depend on it.
void share_threads(std::vector<recipe::Recipe>& recipes, std::size_t jobs) {
  const auto share =
      std::max<std::int64_t>(1, base::available_cores() / static_cast<std::int64_t>(jobs));
  for (auto& recipe : recipes) {
    if (recipe.compute.threads != 0) continue;
    recipe.compute.threads = share;
    recipe.table["compute"]["threads"].ref<std::int64_t>() = share;
  }
}

void run_here(const engine::RunRequest& request, engine::RunOutcome& outcome) {
  auto& engine_run =
      engine_function<void(const engine::RunRequest&, engine::RunOutcome&)>(engine::kEngineRun);
  reserve_standard_output();
  const ProcessEndWatch watch;
  engine_run(request, outcome);
}

/// What all runs together come to.
struct Tally {
  const std::vector<recipe::Recipe>& recipes;
  ConsoleObserver& observer;
  engine::Outcome outcome = {};
  std::map<std::size_t, std::filesystem::path> folders = {};  ///< of the runs, by number
  std::size_t failed = 0;

  /// A run that fails does not end the others, unless it could not even begin or was interrupted.
  /// Returns whether to go on.
  bool add(std::size_t number, const engine::RunOutcome& run) {
    if (!run.run.empty()) folders[number] = run.run;
    const bool interrupted = run.code >= base::ExitCode::hung_up;
    if (recipes.size() == 1 || interrupted || run.code == base::ExitCode::bug || run.run.empty()) {
      const bool known = outcome.code > base::ExitCode::failed;
      if (!known) outcome = run;
      return false;
    }
    if (run.code != base::ExitCode::done && outcome.code == base::ExitCode::done)
      outcome.code = base::ExitCode::failed;
    if (run.error.empty()) return true;
    ++failed;
    observer.of(number).event({{"event", "log"},
                               {"level", "warning"},
                               {"stage", "run"},
                               {"name", recipes[number].name},
                               {"message", fmt::format("failed: {}", run.error)}});
    return true;
  }

  void end() {
    if (failed == 0 || outcome.code != base::ExitCode::failed) return;
    outcome.error = fmt::format("{} of {} runs failed", failed, recipes.size());
    outcome.hint = "their rows in the tables and `error` in their run.json say why";
  }
};

}  // namespace

base::ExitCode run_for(EngineLink& parent, const Invocation& invocation) {
  pass_signals(parent.page().interrupted);
  const catalog::Catalog catalog = invocation.catalog();
  recipe::CheckedRecipe checked;
  engine::RunOutcome outcome;
  run_here(parent.request(checked, catalog), outcome);
  parent.outcome(outcome);
  return outcome.code;
}

RecipeOutcome run_recipes(const RecipeRun& run, const Invocation& invocation) {
  constexpr long kLongestStall = 7L * 24 * 3600;
  const bool json = invocation.has("json");
  std::vector<recipe::Recipe> recipes = run.checked->recipes;
  const std::chrono::seconds stall_limit(
      number_of(invocation, "stall-limit", "3600", 0, kLongestStall, "of seconds "));
  const std::size_t jobs = jobs_of(invocation, recipes);
  if (jobs > 1) share_threads(recipes, jobs);

  const auto quiet = json ? spdlog::level::warn : spdlog::level::info;
  spdlog::set_level(invocation.has("verbose") ? spdlog::level::debug : quiet);
  require_engine();
  probe_plugins(recipes);
  ConsoleObserver observer({json, invocation.color_out, run.checked->groups, run.text});
  std::vector<engine::RunRequest> requests;
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    engine::RunRequest& request = requests.emplace_back();
    request.recipe = &recipes[i];
    request.one_of_several = recipes.size() > 1;
    request.output = run.output;
    request.out = run.out;
    request.fresh = invocation.has("fresh");
    request.observer = &observer.of(i);
  }
  Tally tally{recipes, observer};
  if (invocation.has("one-process")) {
    bool go_on = true;
    for (std::size_t i = 0; i < requests.size() && go_on; ++i) {
      requests[i].interrupted = &catch_signals();
      engine::RunOutcome outcome;
      run_here(requests[i], outcome);
      go_on = tally.add(i, outcome);
    }
  } else {
    run_in_children(invocation, requests, jobs, stall_limit,
                    [&](std::size_t number, const engine::RunOutcome& outcome) {
                      return tally.add(number, outcome);
                    });
  }
  tally.end();

  observer.end();
  const std::vector<report::FinishedRun> finished = observer.finished();
  if (!json && finished.size() > 1)
    print(std::string("\n") + report::summary_table(finished, invocation.color_out));
  for (const auto& [number, folder] : tally.folders)
    spdlog::info("wrote {}", base::printable(folder.string()));
  const engine::Outcome& outcome = tally.outcome;
  if (outcome.code == base::ExitCode::bug)
    print_internal_error(outcome.error);
  else if (!outcome.error.empty())
    print_error(outcome.error, outcome.hint);
  if (outcome.code == base::ExitCode::done && observer.output_error())
    throw *observer.output_error();
  RecipeOutcome result{outcome.code, {}};
  for (const auto& each : finished) result.results.push_back(each.results);
  return result;
}

}  // namespace backstop::cli
