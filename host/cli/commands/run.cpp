// backstop run: checks the recipe, loads the engine and lets it work.
#include <map>
#include <set>
#include <sstream>

#include <boost/program_options/value_semantic.hpp>

#include "host/base/text.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/observer.hpp"
#include "host/cli/plugin_probe.hpp"
#include "host/cli/recipe_command.hpp"
#include "host/cli/signals.hpp"
#include "host/engine/engine.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Runs a recipe: trains or loads the suspicious model, applies each defense, measures, and "
    "writes\n"
    "everything into a folder of its own below DIR. The result table goes to standard output.\n"
    "What an earlier run has already trained is used again. With --json each event is one line.\n";

void add_options(boost::program_options::options_description& options) {
  add_set_option(options);
  auto add = options.add_options();
  add("out", boost::program_options::value<std::vector<std::string>>()->value_name("DIR"),
      "write below DIR instead of `runs`");
  add("fresh", "train again what is already there");
  add("verbose,v", "say more");
}

// -- groups of a [matrix] --

using FlatRecipe = std::map<std::string, std::string>;

void flatten(const toml::node& node, const std::string& path, FlatRecipe& flat) {
  const auto below = [&path](std::string_view key) {
    return (path.empty() ? "" : path + ".") + std::string(key);
  };
  if (const auto* table = node.as_table()) {
    for (const auto& [key, value] : *table) flatten(value, below(key.str()), flat);
  } else if (const auto* array = node.as_array(); array && array->is_homogeneous<toml::table>()) {
    for (std::size_t i = 0; i < array->size(); ++i)
      flatten((*array)[i], below(std::to_string(i)), flat);
  } else {
    std::ostringstream text;
    text << toml::toml_formatter(
        node, toml::toml_formatter::default_flags & ~toml::format_flags::allow_literal_strings);
    flat[path] = text.str();
  }
}

/// For each recipe what sets it apart from the others, the seed aside: "attack.size = 5".
std::vector<std::string> groups_of(const std::vector<recipe::Recipe>& recipes) {
  std::vector<FlatRecipe> flat(recipes.size());
  std::map<std::string, std::set<std::string>> values;
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    flatten(recipes[i].table, "", flat[i]);
    for (const auto& [key, value] : flat[i]) values[key];
  }
  std::vector<std::string> groups(recipes.size());
  for (auto& [key, seen] : values) {
    if (key == "seed" || key == "name") continue;
    for (auto& one : flat) seen.insert(one[key]);
    if (seen.size() == 1) continue;
    for (std::size_t i = 0; i < flat.size(); ++i)
      if (const auto& value = flat[i][key]; !value.empty())
        groups[i].append(groups[i].empty() ? "" : ", ").append(key).append(" = ").append(value);
  }
  return groups;
}

base::ExitCode run(const Invocation& invocation) {
  const bool json = invocation.has("json");
  const std::string out = invocation.one("out").value_or("runs");
  const catalog::Catalog catalog = invocation.catalog();
  const recipe::CheckedRecipe checked =
      recipe::check_recipe(invocation.arguments[0], invocation.all("set"), catalog);
  print_diagnostics(checked, invocation.color_err);
  if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done) return code;

  const auto quiet = json ? spdlog::level::warn : spdlog::level::info;
  spdlog::set_level(invocation.has("verbose") ? spdlog::level::debug : quiet);
  auto& engine_run =
      engine_function<void(const engine::RunRequest&, engine::RunOutcome&)>(engine::kEngineRun);
  probe_plugins(checked.recipes, catalog);
  ConsoleObserver observer({json, invocation.color_out, groups_of(checked.recipes)});
  engine::RunRequest request;
  request.recipes = &checked.recipes;
  request.catalog = &catalog;
  request.out = out;
  request.fresh = invocation.has("fresh");
  request.interrupted = &catch_signals();
  request.observer = &observer;
  engine::RunOutcome outcome;
  engine_run(request, outcome);

  observer.end();
  if (!json && observer.finished().size() > 1)
    print("\n" + report::summary_table(observer.finished(), invocation.color_out));
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
