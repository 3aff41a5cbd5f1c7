#include "host/cli/run_recipes.hpp"

#include <chrono>
#include <stdexcept>
#include <utility>

#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>

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

std::string out_folder(const Invocation& invocation) {
  std::string out = invocation.one("out").value_or("runs");
  if (out.empty()) throw base::HostError(base::ExitCode::usage, "--out is empty", "name a folder");
  return out;
}

namespace {

std::chrono::seconds stall_limit(const Invocation& invocation) {
  constexpr long kMost = 7L * 24 * 3600;
  const std::string text = invocation.one("stall-limit").value_or("3600");
  try {
    std::size_t end = 0;
    const long seconds = std::stol(text, &end);
    if (end == text.size() && seconds >= 0 && seconds <= kMost)
      return std::chrono::seconds(seconds);
  } catch (const std::logic_error&) {  // not a number: the error below
  }
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("option `--stall-limit` must be a whole number of seconds between 0 and {}, got "
                  "`{}`",
                  kMost, text));
}

void run_here(const engine::RunRequest& request, engine::RunOutcome& outcome) {
  auto& engine_run =
      engine_function<void(const engine::RunRequest&, engine::RunOutcome&)>(engine::kEngineRun);
  reserve_standard_output();
  const ProcessEndWatch watch;
  engine_run(request, outcome);
}

/// In the child of run_in_child().
RecipeOutcome run_for(EngineLink& parent, engine::RunRequest request) {
  pass_signals(parent.page().interrupted);
  request.interrupted = &parent.page().interrupted;
  request.pulse = &parent.page().pulse;
  request.earlier = parent.earlier();
  request.observer = &parent;
  engine::RunOutcome outcome;
  run_here(request, outcome);
  parent.outcome(outcome);
  return {outcome.code, {}};
}

}  // namespace

RecipeOutcome run_recipes(const RecipeRun& run, const Invocation& invocation) {
  const bool json = invocation.has("json");
  const auto& recipes = run.checked->recipes;
  const std::chrono::seconds limit = stall_limit(invocation);
  engine::RunRequest request;
  request.recipes = &recipes;
  request.output = run.output;
  request.out = run.out;
  request.fresh = invocation.has("fresh");
  if (EngineLink* const parent = EngineLink::get()) return run_for(*parent, std::move(request));

  const auto quiet = json ? spdlog::level::warn : spdlog::level::info;
  spdlog::set_level(invocation.has("verbose") ? spdlog::level::debug : quiet);
  require_engine();
  probe_plugins(recipes);
  ConsoleObserver observer({json, invocation.color_out, run.checked->groups, run.text});
  request.observer = &observer;
  engine::RunOutcome outcome;
  if (invocation.has("one-process")) {
    request.interrupted = &catch_signals();
    run_here(request, outcome);
  } else {
    run_in_child(invocation, request, limit, outcome);
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
