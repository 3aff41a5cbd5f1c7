// backstop run: checks the recipe, loads the engine and hands the recipe to it.
#include "host/cli/checked_recipe.hpp"
#include "host/cli/run_recipes.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Runs a recipe: trains or loads the suspect model, applies each defense, measures the results, "
    "and\n"
    "writes everything to a new folder below DIR. The table of results goes to standard output.\n"
    "Stages that an earlier run has completed are reused. With --json, each event is written as "
    "one\n"
    "line of JSON.\n";

void add_options(boost::program_options::options_description& options) {
  add_set_option(options);
  add_run_options(options);
  add_jobs_option(options);
}

base::ExitCode run(const Invocation& invocation) {
  const std::string out = out_folder(invocation);
  const catalog::Catalog catalog = invocation.catalog();
  const recipe::CheckedRecipe checked =
      recipe::check_recipe(invocation.arguments[0], invocation.all("set"), catalog);
  print_diagnostics(checked, invocation.color_err);
  if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done) return code;
  return run_recipes({out, &checked}, invocation).code;
}

}  // namespace

const Command kRun{"run", "run a recipe and write its results", "RECIPE", kDescription, add_options,
                   run};

}  // namespace backstop::cli
