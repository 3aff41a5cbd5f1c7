// backstop clean: removes what may be a backdoor from a model from elsewhere.
#include <cmath>
#include <filesystem>

#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/own_model.hpp"
#include "host/cli/run_recipes.hpp"
#include "host/report/model_text.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDescription =
    "Removes a backdoor that may be in a model, with clean images of its classes, and writes the "
    "model\n"
    "to FILE in the format that it came in, with the same names and types. A part of the images "
    "is\n"
    "held out to measure accuracy before and after. The exit status is 1 if accuracy fell by more "
    "than\n"
    "the tolerance; the file is written all the same.\n"
    "How much of a backdoor is left cannot be measured without its trigger.\n";

constexpr const char* kRow = "cleaned";

void add_options(boost::program_options::options_description& options) {
  const auto value = [](const char* name) {
    return boost::program_options::value<std::vector<std::string>>()->value_name(name);
  };
  add_model_options(options);
  auto add = options.add_options();
  add("output,o", value("FILE"), "where to write the cleaned model");
  add("method", value("PLUGIN"),
      "the defense; left out: auto-fine-tuning, which finds its own rate");
  add("flip", "train on mirrored images too; right where they keep their class");
  add("tolerance", value("POINTS"), "percentage points of accuracy that may be lost; left out: 2");
  add_set_option(options);
  add_run_options(options);
}

/// Points, as a share.
double tolerance_of(const Invocation& invocation) {
  const std::string text = invocation.one("tolerance").value_or("2");
  std::size_t used = 0;
  double points = -1;
  try {
    points = std::stod(text, &used);
  } catch (const std::logic_error&) {
  }
  if (used != text.size() || !(points >= 0 && points <= 100))
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("`--tolerance` must be percentage points in 0 .. 100, got `{}`", text));
  return points / 100;
}

/// FILE of --output, which may be the model's own only by that name.
fs::path output_of(const Invocation& invocation) {
  const auto output = invocation.one("output");
  if (!output || output->empty())
    throw base::HostError(base::ExitCode::usage, "`--output` is missing",
                          "name the file for the cleaned model");
  const fs::path file = *output, model = invocation.arguments[0];
  std::error_code error;
  if (file != model && fs::equivalent(file, model, error))
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("{} and {} are the same file", file.string(), model.string()),
                          "to overwrite the model, give `--output` the same name");
  if (fs::is_directory(file, error))
    throw base::HostError(base::ExitCode::usage, fmt::format("{} is a folder", file.string()),
                          "name a file");
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  if (!fs::is_directory(folder, error))
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("{} is not a folder", folder.string()),
                          "create it, or name another file with --output");
  return file;
}

base::ExitCode clean(const Invocation& invocation) {
  const std::string out = out_folder(invocation);
  const double tolerance = tolerance_of(invocation);
  const fs::path output = output_of(invocation);
  const catalog::Catalog catalog = invocation.catalog();
  toml::table recipe = recipe_for("clean", invocation);
  if (invocation.has("flip"))
    recipe["dataset"].as_table()->insert("augmentation", toml::table{{"horizontal_flip", true}});
  const std::string method = invocation.one("method").value_or("auto-fine-tuning");
  toml::table defense{{"name", kRow}, {"plugin", method}};
  if (const auto* entry = catalog.find(catalog::Kind::defense, method);
      entry != nullptr && entry->manifest.asks_for("clean-data"))
    defense.insert("clean_fraction", 1.0);
  recipe.insert("defense", toml::array{std::move(defense)});
  const recipe::CheckedRecipe checked = checked_recipe_for(recipe, invocation, catalog);
  if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done) return code;
  show_model(invocation);
  const RecipeRun run{out, &checked, engine::ModelOutput{kRow, output},
                      [&](const nlohmann::json& results) {
                        return report::clean_text(results, tolerance, invocation.color_out);
                      }};
  const auto [code, results] = run_recipes(run, invocation);
  if (code != base::ExitCode::done || results.empty()) return code;
  spdlog::info("wrote {}", base::printable(output.string()));
  return report::lost_too_much(results.front(), tolerance) ? base::ExitCode::failed
                                                           : base::ExitCode::done;
}

}  // namespace

const Command kClean{"clean",     "remove what may be a backdoor from a model from elsewhere",
                     "MODEL",     kDescription,
                     add_options, clean};

}  // namespace backstop::cli
