// backstop expand: a recipe's [matrix] as recipes of their own, for engines that run jobs.
#include <boost/program_options/value_semantic.hpp>
#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/sweep.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Writes one recipe for each combination of a recipe's [matrix], with every default spelled "
    "out.\n"
    "`backstop run` takes each as it is, and its results are those of the combination: for GNU "
    "parallel,\n"
    "Snakemake, HTCondor and others. Without --out-dir, the recipes go to standard output, one "
    "after\n"
    "another, and with --json as one object that lists them.\n";

void add_options(boost::program_options::options_description& options) {
  add_set_option(options);
  options.add_options()(
      "out-dir", boost::program_options::value<std::vector<std::string>>()->value_name("DIR"),
      "write the recipes to the new folder DIR: 01.toml, 02.toml, ...");
}

base::ExitCode expand(const Invocation& invocation) {
  const catalog::Catalog catalog = invocation.catalog();
  const recipe::CheckedRecipe checked =
      recipe::check_recipe(invocation.arguments[0], invocation.all("set"), catalog);
  print_diagnostics(checked, invocation.color_err);
  if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done) return code;
  const std::size_t count = checked.recipes.size();
  const auto folder = invocation.one("out-dir");

  const auto firsts = first_with_same_attack(checked.recipes);
  std::map<std::string, std::string> files;
  nlohmann::json list = nlohmann::json::array();
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string name = recipe_file_name(i + 1, count), recipe = recipe_file_text(checked, i);
    text += (i == 0 ? "" : "\n") + recipe;
    list.push_back({{"number", i + 1},
                    // of the first one that trains the same model
                    {"attack", firsts[i] + 1},
                    {"file", folder ? nlohmann::json(name) : nlohmann::json()},
                    {"name", checked.recipes[i].name},
                    {"group", checked.groups[i]},
                    {"seed", checked.recipes[i].seed},
                    {"recipe", recipe}});
    files.emplace(name, recipe);
  }
  if (folder) {
    write_new_folder(*folder, files);
    spdlog::info("wrote {} to {}", base::count_of(count, "recipe"), base::printable(*folder));
  }
  if (invocation.has("json"))
    print_json({{"schema", 1}, {"recipes", list}}, true);
  else if (!folder)
    print(text);
  return base::ExitCode::done;
}

}  // namespace

const Command kExpand{"expand",    "write one recipe for each combination of a recipe's [matrix]",
                      "RECIPE",    kDescription,
                      add_options, expand};

}  // namespace backstop::cli
