// backstop scan: looks for a backdoor in a model from elsewhere.
#include <boost/program_options/value_semantic.hpp>

#include "host/cli/checked_recipe.hpp"
#include "host/cli/own_model.hpp"
#include "host/cli/run_recipes.hpp"
#include "host/report/model_text.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Looks for a backdoor in a model, with a few hundred clean images of its classes. No trigger "
    "need\n"
    "be known. MODEL is a safetensors file, a checkpoint of torch.save, or TorchScript.\n"
    "Nothing found does not mean clean: docs/scan.md says what the detectors look for and what "
    "they\n"
    "cannot see.\n"
    "The exit status is 0 if nothing was found, and 1 if the model is suspicious or no detector "
    "came\n"
    "to a verdict.\n";

constexpr const char* kBlindSpots =
    "\nNothing found does not mean clean: these detectors look for a patch or a perturbation that "
    "leads\n"
    "many images to one class. Triggers that blend over the whole image, or differ from image to "
    "image,\n"
    "may escape them (docs/scan.md).\n";

void add_options(boost::program_options::options_description& options) {
  add_model_options(options);
  options.add_options()(
      "detector", boost::program_options::value<std::vector<std::string>>()->value_name("PLUGIN"),
      "detector to use; may be repeated; left out: all that are built in");
  add_set_option(options);
  add_run_options(options);
}

/// Those that are asked for, or all built-in ones that judge models.
std::vector<std::string> detectors_of(const Invocation& invocation,
                                      const catalog::Catalog& catalog) {
  std::vector<std::string> names = invocation.all("detector");
  if (!names.empty()) return names;
  for (const auto& entry : catalog.entries())
    if (!entry.refusal && !entry.shadowed && entry.built_in && entry.manifest.judges_models())
      names.push_back(entry.manifest.name);
  return names;
}

base::ExitCode scan(const Invocation& invocation) {
  const std::string out = out_folder(invocation);
  const catalog::Catalog catalog = invocation.catalog();
  toml::table recipe = recipe_for("scan", invocation);
  toml::array detectors;
  for (const auto& name : detectors_of(invocation, catalog)) {
    toml::table detector{{"plugin", name}};
    // Whoever brings his own images gives them all.
    if (const auto* entry = catalog.find(catalog::Kind::defense, name);
        entry != nullptr && entry->manifest.asks_for("clean-data"))
      detector.insert("clean_fraction", 1.0);
    detectors.push_back(std::move(detector));
  }
  recipe.insert("detector", std::move(detectors));
  const recipe::CheckedRecipe checked = checked_recipe_for(recipe, invocation, catalog);
  if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done) return code;
  show_model(invocation);
  const RecipeRun run{out, &checked, {}, [&](const nlohmann::json& results) {
                        const std::string text = report::scan_text(results, invocation.color_out);
                        return text.empty() ? text : text + kBlindSpots;
                      }};
  const auto [code, results] = run_recipes(run, invocation);
  if (code != base::ExitCode::done || results.empty()) return code;
  return report::suspicious_or_unknown(results.front()) ? base::ExitCode::failed
                                                        : base::ExitCode::done;
}

}  // namespace

const Command kScan{"scan",      "look for a backdoor in a model from elsewhere",
                    "MODEL",     kDescription,
                    add_options, scan};

}  // namespace backstop::cli
