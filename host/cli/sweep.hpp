// A sweep: the combinations of a recipe's [matrix] as recipes of their own, and the job arrays of
// Slurm that run them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "host/recipe/recipe.hpp"

namespace backstop::cli {

/// The name of file number `number`, from 1, of `count`: "07.toml".
std::string recipe_file_name(std::size_t number, std::size_t count);
/// The resolved recipe of combination `index`, from 0, below a line that says which one it is.
std::string recipe_file_text(const recipe::CheckedRecipe& checked, std::size_t index);

/// Makes `folder` with files of these names, which may lead into folders below it; whole, or not at
/// all. Throws HostError(usage) if there is something else than an empty folder.
void write_new_folder(const std::filesystem::path& folder,
                      const std::map<std::string, std::string>& files);

/// What the model of the attack stage is made of, as text: recipes that agree in it share the model.
std::string model_text(const recipe::Recipe& recipe);

/// For each recipe the number, from 0, of the first one that trains the same model in its attack
/// stage; its own if there is nothing to train.
std::vector<std::size_t> first_with_same_attack(const std::vector<recipe::Recipe>& recipes);

/// One combination of a sweep, and the task with its number.
struct Combination {
  std::string recipe_sha256;  ///< of the resolved recipe
  std::string name, group;
  std::int64_t seed = 0;
  std::size_t attack = 0;     ///< equal for those that share the model of their attack stage
  bool pins_threads = false;  ///< else its run has those of its job in its recipe
};

/// A job array of Slurm.
struct ArrayJob {
  std::string id;                  ///< empty before it is submitted
  std::vector<std::size_t> tasks;  ///< numbers of combinations, from 1
};

/// What `sweep.json` in a sweep's folder says.
struct Sweep {
  std::filesystem::path folder;  ///< absolute, as are the others
  std::filesystem::path out;     ///< what its runs are below
  std::string name;              ///< of the recipe
  std::string created;           ///< "2026-11-21T10:04:11Z"
  std::vector<Combination> combinations;
  std::vector<ArrayJob> jobs;
};

/// The array jobs for `tasks`: of those that share a model one in the first job, which trains it, and
/// the others, if there are any, in the second.
std::vector<ArrayJob> jobs_for(const Sweep& sweep, const std::vector<std::size_t>& tasks);

inline constexpr const char* kSweepFile = "sweep.json";
inline constexpr const char* kSweepsFolder = "sweeps";  ///< below --out
inline constexpr const char* kSweepRecipes = "recipes";
inline constexpr const char* kSweepScript = "job.sh";

/// The text of `sweep.json`.
std::string to_json_text(const Sweep& sweep);
/// Throws HostError(environment) if the folder holds no such file, or one with mistakes.
Sweep read_sweep(const std::filesystem::path& folder);

/// What the tasks of a sweep are run with.
struct SweepTasks {
  std::filesystem::path program;               ///< absolute, as are the others
  std::filesystem::path working_folder;        ///< what paths in the recipes are relative to
  std::vector<std::string> plugin_paths;       ///< of --plugin-path
  const char* plugin_path_variable = nullptr;  ///< BACKSTOP_PLUGIN_PATH; null: not set
};
/// The script that runs one task.
std::string script_of(const Sweep& sweep, const SweepTasks& tasks);

/// The words that submit `job` after job `after`, if that is not empty; `jobs_at_once` 0: no limit.
std::vector<std::string> sbatch_words(const Sweep& sweep, const ArrayJob& job,
                                      const std::string& after, std::int64_t jobs_at_once,
                                      const std::vector<std::string>& more);

}  // namespace backstop::cli
