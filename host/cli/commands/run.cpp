// backstop run: checks the recipe, loads the engine and hands the recipe to it.
#include <boost/program_options/value_semantic.hpp>

#include "host/base/text.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/observer.hpp"
#include "host/cli/plugin_probe.hpp"
#include "host/cli/process_end.hpp"
#include "host/cli/signals.hpp"
#include "host/engine/engine.hpp"

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
  auto add = options.add_options();
  add("out", boost::program_options::value<std::vector<std::string>>()->value_name("DIR"),
      "write the run below DIR instead of `runs`");
  add("fresh", "ignore cached stages and retrain");
  add("verbose,v", "print more detail");
}

base::ExitCode run(const Invocation& invocation) {
  const bool json = invocation.has("json");
  const std::string out = invocation.one("out").value_or("runs");
  if (out.empty()) throw base::HostError(base::ExitCode::usage, "--out is empty", "name a folder");
  const catalog::Catalog catalog = invocation.catalog();
  const recipe::CheckedRecipe checked =
      recipe::check_recipe(invocation.arguments[0], invocation.all("set"), catalog);
  print_diagnostics(checked, invocation.color_err);
  if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done) return code;

  const auto quiet = json ? spdlog::level::warn : spdlog::level::info;
  spdlog::set_level(invocation.has("verbose") ? spdlog::level::debug : quiet);
  auto& engine_run =
      engine_function<void(const engine::RunRequest&, engine::RunOutcome&)>(engine::kEngineRun);
  probe_plugins(checked.recipes);
  ConsoleObserver observer({json, invocation.color_out, checked.groups});
  engine::RunRequest request;
  request.recipes = &checked.recipes;
  request.out = out;
  request.fresh = invocation.has("fresh");
  request.interrupted = &catch_signals();
  request.observer = &observer;
  engine::RunOutcome outcome;
  reserve_standard_output();
  {
    const ProcessEndWatch watch;
    engine_run(request, outcome);
  }

  observer.end();
  if (!json && observer.finished().size() > 1)
    print(std::string("\n") + report::summary_table(observer.finished(), invocation.color_out));
  for (const auto& folder : outcome.runs)
    spdlog::info("wrote {}", base::printable(folder.string()));
  if (outcome.code == base::ExitCode::bug)
    print_internal_error(outcome.error);
  else if (!outcome.error.empty())
    print_error(outcome.error, outcome.hint);
  if (outcome.code == base::ExitCode::done && observer.output_error())
    throw *observer.output_error();
  return outcome.code;
}

}  // namespace

const Command kRun{"run", "run a recipe and write its results", "RECIPE", kDescription, add_options,
                   run};

}  // namespace backstop::cli
