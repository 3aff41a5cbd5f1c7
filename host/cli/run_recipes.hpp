// Hands checked recipes to the engine and shows what happens: `run`, `scan` and `clean`.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "host/cli/command.hpp"
#include "host/cli/engine_process.hpp"
#include "host/engine/engine.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::cli {

struct RecipeRun {
  std::string out;  ///< out_folder()
  const recipe::CheckedRecipe* checked = nullptr;
  std::optional<engine::ModelOutput> output = {};
  /// The text for standard output; left out: the table of results.
  std::function<std::string(const nlohmann::json& results)> text = {};
};

/// --out, --fresh, --verbose and more, which run_recipes() reads.
void add_run_options(boost::program_options::options_description& options);
/// --jobs, for commands whose recipe may have a matrix.
void add_jobs_option(boost::program_options::options_description& options);
/// That of --out. Throws HostError(usage).
std::string out_folder(const Invocation& invocation);

struct RecipeOutcome {
  base::ExitCode code = base::ExitCode::done;
  std::vector<nlohmann::json> results;  ///< of the runs that came to an end
};

/// In the process that run_in_children() has started: the run that it was started for.
base::ExitCode run_for(EngineLink& parent, const Invocation& invocation);

/// Reports errors. Throws HostError for what is wrong before the run begins.
RecipeOutcome run_recipes(const RecipeRun& run, const Invocation& invocation);

}  // namespace backstop::cli
