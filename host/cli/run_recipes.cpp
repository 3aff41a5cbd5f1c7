#include "host/cli/run_recipes.hpp"

#include <boost/program_options/value_semantic.hpp>

#include "host/base/text.hpp"
#include "host/cli/engine_library.hpp"
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
  add("verbose,v", "print more detail");
}

std::string out_folder(const Invocation& invocation) {
  std::string out = invocation.one("out").value_or("runs");
  if (out.empty()) throw base::HostError(base::ExitCode::usage, "--out is empty", "name a folder");
  return out;
}

RecipeOutcome run_recipes(const RecipeRun& run, const Invocation& invocation) {
  const bool json = invocation.has("json");
  const auto& recipes = run.checked->recipes;
  const auto quiet = json ? spdlog::level::warn : spdlog::level::info;
  spdlog::set_level(invocation.has("verbose") ? spdlog::level::debug : quiet);
  auto& engine_run =
      engine_function<void(const engine::RunRequest&, engine::RunOutcome&)>(engine::kEngineRun);
  probe_plugins(recipes);
  ConsoleObserver observer({json, invocation.color_out, run.checked->groups, run.text});
  engine::RunRequest request;
  request.recipes = &recipes;
  request.output = run.output;
  request.out = run.out;
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
  RecipeOutcome result{outcome.code, {}};
  for (const auto& finished : observer.finished()) result.results.push_back(finished.results);
  return result;
}

}  // namespace backstop::cli
