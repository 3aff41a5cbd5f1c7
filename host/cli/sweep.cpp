#include "host/cli/sweep.hpp"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/text.hpp"
#include "host/cli/child.hpp"

namespace backstop::cli {

namespace fs = std::filesystem;
using nlohmann::json;

// -- files --

std::string recipe_file_name(std::size_t number, std::size_t count) {
  return fmt::format("{:0{}}.toml", number, std::to_string(count).size());
}

std::string recipe_file_text(const recipe::CheckedRecipe& checked, std::size_t index) {
  const recipe::Recipe& recipe = checked.recipes[index];
  const std::string& group = checked.groups[index];
  return fmt::format("# {} of {}: {}seed = {}\n{}", index + 1, checked.recipes.size(),
                     base::printable(group.empty() ? "" : group + ", "), recipe.seed,
                     recipe::to_toml(recipe));
}

void write_new_folder(const fs::path& folder, const std::map<std::string, std::string>& files) {
  fs::path place = fs::absolute(folder).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();  // "DIR/"
  std::error_code error;
  if (fs::exists(place, error) && !(fs::is_directory(place) && fs::is_empty(place)))
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("{} exists and is not an empty folder", folder.string()),
                          "name a new folder, or remove this one");
  base::make_folder(place.parent_path());
  const fs::path unfinished =
      place.parent_path() / (std::string(base::kUnfinishedFile) + base::unique_name());
  try {
    base::make_folder(unfinished);
    for (const auto& [name, text] : files) {
      base::make_folder((unfinished / name).parent_path());
      base::write_file(unfinished / name, text);
    }
    base::sync_tree(unfinished);
    fs::rename(unfinished, place, error);
    if (error)
      throw base::HostError(
          base::ExitCode::environment,
          fmt::format("cannot create the folder {}: {}", folder.string(), error.message()));
  } catch (...) {
    fs::remove_all(unfinished, error);
    throw;
  }
}

// -- what is shared --

std::string model_text(const recipe::Recipe& recipe) {
  recipe::Recipe attack;
  attack.table = recipe.table;
  for (const char* key : {"name", "defense", "detector", "audit", "expect"})
    attack.table.erase(key);
  // A model that is adapted later was trained on [pretraining.dataset] alone.
  if (recipe.scenario == recipe::Scenario::transfer) attack.table.erase("dataset");
  return recipe::to_toml(attack);
}

std::vector<std::size_t> first_with_same_attack(const std::vector<recipe::Recipe>& recipes) {
  std::map<std::string, std::size_t> known;
  std::vector<std::size_t> firsts;
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    const bool trains = recipes[i].attack && !recipes[i].model.file;
    firsts.push_back(trains ? known.emplace(model_text(recipes[i]), i).first->second : i);
  }
  return firsts;
}

std::vector<ArrayJob> jobs_for(const Sweep& sweep, const std::vector<std::size_t>& tasks) {
  std::set<std::size_t> attacks;
  ArrayJob first, rest;
  for (const std::size_t task : tasks)
    (attacks.insert(sweep.combinations[task - 1].attack).second ? first : rest)
        .tasks.push_back(task);
  std::vector<ArrayJob> jobs;
  for (ArrayJob* job : {&first, &rest})
    if (!job->tasks.empty()) jobs.push_back(std::move(*job));
  return jobs;
}

// -- sweep.json --

std::string to_json_text(const Sweep& sweep) {
  json combinations = json::array(), jobs = json::array();
  for (const Combination& combination : sweep.combinations)
    combinations.push_back({{"recipe_sha256", combination.recipe_sha256},
                            {"name", combination.name},
                            {"group", combination.group},
                            {"seed", combination.seed},
                            {"attack", combination.attack},
                            {"pins_threads", combination.pins_threads}});
  for (const ArrayJob& job : sweep.jobs) jobs.push_back({{"id", job.id}, {"tasks", job.tasks}});
  return base::json_text({{"schema", 1},
                          {"name", sweep.name},
                          {"out", sweep.out.string()},
                          {"created", sweep.created},
                          {"combinations", combinations},
                          {"jobs", jobs}},
                         1) +
         "\n";
}

Sweep read_sweep(const fs::path& folder) {
  const std::string text = base::read_file(folder / kSweepFile);
  try {
    const json file = json::parse(text);
    Sweep sweep{fs::absolute(folder),
                file.at("out").get<std::string>(),
                file.at("name"),
                file.at("created"),
                {},
                {}};
    for (const json& of : file.at("combinations"))
      sweep.combinations.push_back({of.at("recipe_sha256"), of.at("name"), of.at("group"),
                                    of.at("seed"), of.at("attack"), of.at("pins_threads")});
    for (const json& of : file.at("jobs")) {
      sweep.jobs.push_back({of.at("id"), of.at("tasks")});
      for (const std::size_t task : sweep.jobs.back().tasks)
        if (task < 1 || task > sweep.combinations.size())
          throw base::HostError(
              base::ExitCode::environment,
              fmt::format("{} has no combination {}", (folder / kSweepFile).string(), task));
    }
    return sweep;
  } catch (const json::exception&) {
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("{} is damaged", (folder / kSweepFile).string()),
                          "`backstop sweep` writes it");
  }
}

// -- Slurm --

namespace {

std::string quoted(const std::string& word) {
  return shell_line({word});
}

/// "1-3,5"
std::string ranges(const std::vector<std::size_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[i]);
    if (end - i > 1) text += fmt::format("-{}", numbers[end - 1]);
    i = end;
  }
  return text;
}

/// The lines that give a run the cores of its job.
std::string threads_lines(const Sweep& sweep) {
  std::string pinned;
  std::size_t count = 0;
  for (std::size_t i = 0; i < sweep.combinations.size(); ++i) {
    if (!sweep.combinations[i].pins_threads) continue;
    pinned += fmt::format("{}{}", count++ == 0 ? "" : "|", i + 1);
  }
  if (count == sweep.combinations.size()) return {};
  const std::string line = "[ -z \"$cores\" ] || set -- \"$@\" --set \"compute.threads=$cores\"\n";
  return "# The recipe leaves the number of threads open: the cores of the job.\n"
         "cores=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}\n" +
         (count == 0 ? line
                     : fmt::format("case $SLURM_ARRAY_TASK_ID in\n  {}) ;;\n  *) {};;\nesac\n",
                                   pinned, line.substr(0, line.size() - 1) + " "));
}

}  // namespace

std::string script_of(const Sweep& sweep, const SweepTasks& tasks) {
  std::string text = fmt::format(
      "#!/bin/sh\n"
      "# Written by `backstop sweep`. A task of a job array runs the recipe that has its number.\n"
      "program={}\n"
      "sweep={}\n"
      "# Paths in the recipes are relative to this folder.\n"
      "cd {} || exit 4\n",
      quoted(tasks.program.string()), quoted(sweep.folder.string()),
      quoted(tasks.working_folder.string()));
  if (tasks.plugin_path_variable != nullptr)
    text += fmt::format("export BACKSTOP_PLUGIN_PATH={}\n", quoted(tasks.plugin_path_variable));
  text += fmt::format(
      "\n"
      "# Requeued after its run had finished: there is nothing left to do.\n"
      "\"$program\" status \"$sweep\" --only \"$SLURM_ARRAY_TASK_ID\" && exit 0\n"
      "\n"
      "recipe=$sweep/{}/$(printf %0{}d \"$SLURM_ARRAY_TASK_ID\").toml\n"
      "set -- \"$recipe\" --out {}\n",
      kSweepRecipes, std::to_string(sweep.combinations.size()).size(), quoted(sweep.out.string()));
  for (const auto& path : tasks.plugin_paths)
    text += fmt::format("set -- \"$@\" --plugin-path {}\n", quoted(path));
  // The program takes the shell's place, so that Slurm's signals reach it.
  return text + threads_lines(sweep) + "exec \"$program\" run \"$@\"\n";
}

std::vector<std::string> sbatch_words(const Sweep& sweep, const ArrayJob& job,
                                      const std::string& after, std::int64_t jobs_at_once,
                                      const std::vector<std::string>& more) {
  std::vector<std::string> words = {
      "sbatch", "--parsable", "--job-name=" + sweep.name, "--chdir=" + sweep.folder.string(),
      "--output=logs/%A_%a.log", "--open-mode=append", "--requeue",
      // Two minutes before the limit, so that the run can end in order.
      "--signal=B:TERM@120",
      "--array=" + ranges(job.tasks) + (jobs_at_once > 0 ? fmt::format("%{}", jobs_at_once) : "")};
  if (!after.empty()) words.push_back("--dependency=afterany:" + after);
  words.insert(words.end(), more.begin(), more.end());
  words.push_back((sweep.folder / kSweepScript).string());
  return words;
}

}  // namespace backstop::cli
