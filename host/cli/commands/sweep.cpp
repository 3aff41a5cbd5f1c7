// backstop sweep: the combinations of a recipe's [matrix] as job arrays of Slurm.
#include "host/cli/sweep.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include <boost/program_options/value_semantic.hpp>
#include <fmt/chrono.h>
#include <nlohmann/json.hpp>

#include "host/base/files.hpp"
#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/child.hpp"
#include "host/cli/run_recipes.hpp"
#include "host/cli/run_states.hpp"
#include "host/cli/slurm.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kDescription =
    "Runs each combination of a recipe's [matrix] as a task of a Slurm job array. Of those that "
    "attack\n"
    "the same model, one runs first and trains it; the others wait in Slurm's queue, not on a "
    "node.\n"
    "The words behind `--` go to sbatch:\n"
    "  backstop sweep recipe.toml --slurm -- --partition=gpu --gres=gpu:1 --cpus-per-task=4\n"
    "RECIPE may be the folder of an earlier sweep: what has not finished is submitted again.\n"
    "`backstop status` shows what becomes of the tasks.\n";

void add_options(boost::program_options::options_description& options) {
  add_set_option(options);
  auto add = options.add_options();
  const auto value = [](const char* name) {
    return boost::program_options::value<std::vector<std::string>>()->value_name(name);
  };
  add("slurm", "submit to Slurm; required, as there is no other engine yet");
  add("out", value("DIR"), "write the runs below DIR instead of `runs`, and the sweep, too");
  add("jobs-at-once", value("N"), "let at most N tasks run at the same time");
  add("dry-run", "write everything and show it, but submit nothing");
}

std::int64_t jobs_at_once(const Invocation& invocation) {
  const auto text = invocation.one("jobs-at-once");
  if (!text) return 0;
  std::int64_t number = 0;
  const char* const end = text->data() + text->size();
  const auto [last, error] = std::from_chars(text->data(), end, number);
  if (error == std::errc{} && last == end && number >= 1) return number;
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("option `--jobs-at-once` must be a whole number of at least 1, got `{}`", *text));
}

bool known_array(std::string_view option) {
  return option.starts_with("-a") || option.starts_with("--a");
}

/// Throws HostError(usage) when sbatch would be told something else than the sweep needs.
void check_sbatch_options(const std::vector<std::string>& options) {
  constexpr std::array<std::string_view, 6> kOwn = {"--array", "--dependency", "--chdir",
                                                    "--wrap",  "--test-only",  "--wait"};
  constexpr std::array<std::string_view, 4> kLetters = {"-a", "-d", "-D", "-W"};
  for (const std::string& option : options) {
    const std::string_view name = std::string_view(option).substr(0, option.find('='));
    // sbatch knows "--arr", too.
    const bool own = std::any_of(kOwn.begin(), kOwn.end(),
                                 [&](std::string_view known) {
                                   return name.size() > 3 && known.starts_with(name);
                                 }) ||
                     std::any_of(kLetters.begin(), kLetters.end(), [&](std::string_view known) {
                       return !name.starts_with("--") && name.starts_with(known);
                     });
    if (own)
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("`{}` cannot be given to sbatch: the sweep decides it itself", option),
          known_array(name) ? "`--jobs-at-once N` limits how many tasks run at the same time" : "");
  }
}

std::string utc_time(const char* format) {
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  return fmt::format(fmt::runtime(format), fmt::gmtime(now));
}

/// Writes a new sweep for the recipe.
Sweep make_sweep(const Invocation& invocation, const recipe::CheckedRecipe& checked) {
  const auto& recipes = checked.recipes;
  if (recipes.size() == 1)
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("{} has only one combination: there is nothing to sweep",
                                      invocation.arguments[0]),
                          "write a [matrix], or submit `backstop run` with `sbatch --wrap`");
  Sweep sweep;
  sweep.out = fs::absolute(out_folder(invocation)).lexically_normal();
  if (base::valid_utf8(sweep.out.string()) != sweep.out.string())
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("the folder {} has a name that is not UTF-8",
                                      base::valid_utf8(sweep.out.string())),
                          "the list of a sweep is UTF-8: choose another folder with --out");
  sweep.name = recipes[0].name;
  sweep.created = utc_time("{:%FT%TZ}");
  sweep.folder = sweep.out / kSweepsFolder /
                 fmt::format("{}-{}-{}", sweep.name, utc_time("{:%Y%m%dT%H%M%SZ}"),
                             base::unique_name().substr(0, 4));
  std::map<std::string, std::string> files;
  const auto firsts = first_with_same_attack(recipes);
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    sweep.combinations.push_back({base::sha256_of_text(recipe::to_toml(recipes[i])),
                                  recipes[i].name, checked.groups[i], recipes[i].seed, firsts[i],
                                  recipes[i].compute.threads != 0});
    files.emplace(fmt::format("{}/{}", kSweepRecipes, recipe_file_name(i + 1, recipes.size())),
                  recipe_file_text(checked, i));
  }
  SweepTasks tasks{fs::read_symlink("/proc/self/exe"),
                   fs::current_path(),
                   {},
                   std::getenv("BACKSTOP_PLUGIN_PATH")};
  for (const auto& path : invocation.all("plugin-path"))
    tasks.plugin_paths.push_back(fs::absolute(path).string());
  files.emplace(kSweepScript, script_of(sweep, tasks));
  files.emplace(kSweepFile, to_json_text(sweep));
  files.emplace("logs/README", "What the tasks say: JOB_TASK.log\n");
  write_new_folder(sweep.folder, files);
  return sweep;
}

/// The numbers of the combinations that have not finished and do not run or wait.
std::vector<std::size_t> unfinished_tasks(const Sweep& sweep) {
  const auto runs = states_of(sweep);
  if (!sweep.jobs.empty() && !runs.slurm_answered)
    throw base::HostError(base::ExitCode::environment,
                          "`squeue` does not say which tasks still wait or run",
                          "try again when Slurm answers: they would be submitted twice");
  std::vector<std::size_t> tasks;
  for (std::size_t i = 0; i < runs.views.size(); ++i) {
    const RunState state = runs.views[i].state;
    const bool in_queue = state == RunState::waiting && runs.views[i].task.has_value();
    if (state != RunState::finished && state != RunState::running && !in_queue)
      tasks.push_back(i + 1);
  }
  return tasks;
}

/// The lines of a shell that submit the jobs.
std::string shell_lines(const Sweep& sweep, const std::vector<ArrayJob>& jobs, std::int64_t limit,
                        const std::vector<std::string>& more) {
  if (jobs.size() == 1) return shell_line(sbatch_words(sweep, jobs[0], "", limit, more)) + "\n";
  std::string second = shell_line(sbatch_words(sweep, jobs[1], "JOB", limit, more));
  constexpr std::string_view kAfter = "--dependency=afterany:JOB";
  second.replace(second.find(kAfter), kAfter.size(), "--dependency=afterany:\"$first\"");
  return fmt::format("first=$({})\n{}\n", shell_line(sbatch_words(sweep, jobs[0], "", limit, more)),
                     second);
}

void submit_all(const Sweep& sweep, std::vector<ArrayJob>& jobs, std::int64_t limit,
                const std::vector<std::string>& more) {
  std::string after;
  try {
    for (ArrayJob& job : jobs)
      after = job.id = submit(sbatch_words(sweep, job, after, limit, more));
  } catch (...) {
    for (const ArrayJob& job : jobs)
      if (!job.id.empty()) cancel(job.id);
    throw;
  }
}

/// The sweep in the folder that the command names.
Sweep earlier_sweep(const Invocation& invocation) {
  const std::string& folder = invocation.arguments[0];
  if (invocation.has("set") || invocation.has("out") || invocation.has("plugin-path"))
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("{} is an earlier sweep, whose recipes and plugins stay as they are", folder),
        "leave out `--set`, `--out` and `--plugin-path`, or name the recipe");
  if (!fs::exists(fs::path(folder) / kSweepFile))
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("{} is not the folder of a sweep", folder),
                          "name the recipe, or a folder that `sweep` has printed");
  return read_sweep(folder);
}

/// Submits the jobs and writes them into the sweep's list. A new sweep is removed if Slurm refuses
/// them, but not where they may have been submitted.
void submit_and_note(Sweep& sweep, std::vector<ArrayJob>& jobs, bool is_new, std::int64_t limit,
                     const std::vector<std::string>& more) {
  try {
    submit_all(sweep, jobs, limit, more);
  } catch (const SubmissionRefused&) {
    std::error_code ignored;
    if (is_new) fs::remove_all(sweep.folder, ignored);
    throw;
  }
  sweep.jobs.insert(sweep.jobs.end(), jobs.begin(), jobs.end());
  base::write_file(sweep.folder / kSweepFile, to_json_text(sweep));
}

json to_json(const Sweep& sweep, const std::vector<ArrayJob>& jobs, const std::string& lines) {
  json list = json::array();
  for (const ArrayJob& job : jobs)
    list.push_back({{"id", job.id.empty() ? json() : json(job.id)}, {"tasks", job.tasks}});
  return {{"schema", 1},
          {"sweep", sweep.folder.string()},
          {"script", (sweep.folder / kSweepScript).string()},
          {"submit", lines},
          {"jobs", list}};
}

std::string submitted_text(const Sweep& sweep, const std::vector<ArrayJob>& jobs) {
  std::string text;
  for (const ArrayJob& job : jobs)
    text +=
        fmt::format("job {}: {}{}\n", job.id, base::count_of(job.tasks.size(), "task"),
                    &job == &jobs.front() ? "" : ", when job " + jobs.front().id + " has ended");
  return text + base::printable(sweep.folder.string()) + "\n";
}

base::ExitCode sweep(const Invocation& invocation) {
  if (!invocation.has("slurm"))
    throw base::HostError(base::ExitCode::usage, "`sweep` needs `--slurm`",
                          "`backstop expand` writes recipes for other engines");
  const std::int64_t limit = jobs_at_once(invocation);
  const std::vector<std::string>& more = invocation.passed_on;
  check_sbatch_options(more);
  const bool dry = invocation.has("dry-run"), again = fs::is_directory(invocation.arguments[0]);

  Sweep sweep;
  std::vector<std::size_t> tasks;
  if (again) {
    if (!dry) require_sbatch();
    sweep = earlier_sweep(invocation);
    tasks = unfinished_tasks(sweep);
    if (tasks.empty()) {
      spdlog::info("every combination has finished, is running, or is waiting in Slurm's queue");
      if (invocation.has("json")) print_json(to_json(sweep, {}, ""), true);
      return base::ExitCode::done;
    }
  } else {
    const catalog::Catalog catalog = invocation.catalog();
    const recipe::CheckedRecipe checked =
        recipe::check_recipe(invocation.arguments[0], invocation.all("set"), catalog);
    print_diagnostics(checked, invocation.color_err);
    if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done)
      return code;
    if (!dry) require_sbatch();
    sweep = make_sweep(invocation, checked);
    for (std::size_t i = 1; i <= sweep.combinations.size(); ++i) tasks.push_back(i);
  }

  std::vector<ArrayJob> jobs = jobs_for(sweep, tasks);
  const std::string lines = shell_lines(sweep, jobs, limit, more);
  if (!dry) submit_and_note(sweep, jobs, !again, limit, more);
  if (invocation.has("json")) {
    print_json(to_json(sweep, jobs, lines), true);
  } else if (dry) {
    const fs::path script = sweep.folder / kSweepScript;
    print(fmt::format("# {}\n{}\n# to submit it:\n{}", base::printable(script.string()),
                      base::read_file(script), lines));
  } else {
    print(submitted_text(sweep, jobs));
    spdlog::info("`backstop status {}` shows what becomes of them",
                 base::printable(shell_line({sweep.folder.string()})));
  }
  return base::ExitCode::done;
}

}  // namespace

const Command kSweep{"sweep",
                     "run the combinations of a recipe's [matrix] on a cluster",
                     "RECIPE [-- SBATCH-OPTION...]",
                     kDescription,
                     add_options,
                     sweep};

}  // namespace backstop::cli
