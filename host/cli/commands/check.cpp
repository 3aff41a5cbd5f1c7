// backstop check: finds every mistake in a recipe, without running it.
#include <algorithm>
#include <set>

#include <boost/program_options/value_semantic.hpp>
#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/command.hpp"
#include "host/cli/own_model.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Checks a recipe without running it, and reports every mistake in it, or what it would do.\n";

nlohmann::json to_json(const recipe::Diagnostic& diagnostic) {
  const bool error = diagnostic.severity == recipe::Diagnostic::Severity::error;
  return {{"severity", error ? "error" : "warning"},
          {"environment", diagnostic.environment},
          {"plugin", diagnostic.plugin},
          {"message", diagnostic.message},
          {"hint", diagnostic.hint},
          {"file", diagnostic.file},
          {"line", diagnostic.line},
          {"column", diagnostic.column},
          {"length", diagnostic.length}};
}

std::string plan(const recipe::Recipe& recipe) {
  const std::string model = recipe.attack ? recipe.attack->use.name() : *recipe.model.file;
  std::string text = std::string(to_string(recipe.scenario)) + ": " + model + " on " +
                     (recipe.pretraining ? recipe.pretraining->use.name() + ", then " : "") +
                     recipe.dataset.use.name() + ", ";
  if (!recipe.detectors.empty()) text += base::count_of(recipe.detectors.size(), "detector") + ", ";
  return text + base::count_of(recipe.defenses.size(), "defense");
}

/// What is wrong with the models' files. Returns whether all can be used.
bool add_problems_of_models(recipe::CheckedRecipe& checked) {
  std::set<std::string> files;
  for (const auto& recipe : checked.recipes)
    if (recipe.model.file) files.insert(*recipe.model.file);
  bool usable = true;
  for (const auto& file : files) {
    const nlohmann::json facts = model_facts(file);
    if (!facts.contains("error")) continue;
    usable = false;
    auto& diagnostic = checked.diagnostics.emplace_back();
    diagnostic.message = facts["error"].get<std::string>();
    diagnostic.hint = facts["hint"].get<std::string>();
    diagnostic.file = file;
    diagnostic.environment = true;
  }
  return usable;
}

base::ExitCode check(const Invocation& invocation) {
  const catalog::Catalog catalog = invocation.catalog();
  recipe::CheckedRecipe checked =
      recipe::check_recipe(invocation.arguments[0], invocation.all("set"), catalog);
  base::ExitCode code = exit_code_of(checked);
  if (code == base::ExitCode::done && !add_problems_of_models(checked))
    code = base::ExitCode::environment;
  if (invocation.has("json")) {
    nlohmann::json diagnostics = nlohmann::json::array();
    for (const auto& diagnostic : checked.diagnostics) diagnostics.push_back(to_json(diagnostic));
    print_json({{"schema", 1},
                {"ok", code == base::ExitCode::done},
                {"runs", checked.recipes.size()},
                {"diagnostics", diagnostics}},
               true);
    return code;
  }
  print_diagnostics(checked, invocation.color_err);
  if (code != base::ExitCode::done) return code;
  // The runs of a [matrix] often share a plan, which is then printed once.
  std::vector<std::string> plans;
  for (const auto& recipe : checked.recipes)
    if (const auto text = base::printable(plan(recipe));
        std::find(plans.begin(), plans.end(), text) == plans.end())
      plans.push_back(text);
  std::string text;
  for (const auto& line : plans) text += (text.empty() ? "" : "\n") + line;
  if (checked.recipes.size() > 1) text += "; " + base::count_of(checked.recipes.size(), "run");
  print(text + "; ok\n");
  return code;
}

}  // namespace

const Command kCheck{
    "check", "find every mistake in a recipe", "RECIPE", kDescription, add_set_option, check};

}  // namespace backstop::cli
