// A recipe: what one run does. Parsed, overridden, checked against the plugins' manifests, and
// resolved: every default is spelled out.
#pragma once

#include <string>
#include <vector>

#include <toml++/toml.h>

#include "host/catalog/catalog.hpp"
#include "host/recipe/diagnostic.hpp"

namespace backstop::recipe {

/// A resolved recipe. Every key below is present unless marked optional, with the type given;
/// floats are TOML floats even where the recipe wrote an integer.
///
///   schema = 1; name (string); scenario ("standalone" | "transfer"); seed (integer >= 0)
///   [pretraining.dataset]  with the scenario "transfer": as [dataset]
///   [dataset]            plugin; image_size (integer, optional: resize); classes (integers or
///                        strings, optional: labels or names, in their new order); per_class,
///                        limit, test_limit (integers, 0: all); the plugin's parameters, which
///                        take the place of the host's keys of the same name
///   [dataset.augmentation]  crop_padding (integer, pixels); horizontal_flip (boolean)
///   [model]              architecture ("preact-resnet18" | "resnet18" | "small-cnn" | "mlp");
///                        width (integer); file (path, optional: start from these weights
///                        instead of training)
///   [attack]             plugin; poison_ratio (float, 0 .. 1); target (integer >= 0);
///                        labels ("all-to-one" | "all-to-all"); the plugin's parameters
///   [attack.training]    epochs, batch_size (integers); optimizer (table); scheduler (table)
///   [[defense]]          name (unique, not "no defense"; default: the plugin's name); plugin;
///                        clean_fraction (float, 0 < x <= 1) or clean_images (integer >= 1),
///                        exactly one of them, where the manifest's needs name "clean-data";
///                        measure_every (integer, epochs); the plugin's parameters. Always an
///                        array, empty where there is none
///   [compute]            device ("auto" | "cpu" | "cuda" | "cuda:N");
///                        precision ("auto" | "float32" | "bfloat16");
///                        threads (integer, 0: all cores)
///   [expect]             optional: "ROW".METRIC = { minimum = x, maximum = y }, ROW "no defense"
///                        or a defense's name, METRIC one of report::expectable_metrics
///
/// An optimizer table: name; for sgd momentum, weight_decay, nesterov; for adam and adamw beta1,
/// beta2, epsilon, weight_decay. A scheduler table: plugin and that plugin's parameters.
struct Recipe {
  /// Its keys' source positions hold the order above; to_toml() writes tables in that order.
  toml::table table;
};

struct CheckedRecipe {
  /// What `[matrix]` expands to, one without it; empty when there is an error.
  std::vector<Recipe> recipes;
  std::vector<Diagnostic> diagnostics;
  std::string source;  ///< the recipe's text, for render()
  [[nodiscard]] bool has_errors() const;
};

/// Reads `file`, applies `overrides` ("key.path=value", the value read as TOML, as a plain string
/// where it is none; `defense.0.epochs` counts from 0), checks and resolves. All problems are found
/// at once. Throws HostError(usage) only when the file cannot be read or holds thousands of dots.
/// A new `plugin` in an override or a matrix drops, with a warning, those of the table's keys that
/// it does not know; a scheduler or optimizer table without `plugin` or `name` changes the default.
CheckedRecipe check_recipe(const std::string& file, const std::vector<std::string>& overrides,
                           const catalog::Catalog& catalog);
/// The same for a recipe in memory; `name` stands for the file in the diagnostics.
CheckedRecipe check_recipe_text(std::string text, const std::string& name,
                                const std::vector<std::string>& overrides,
                                const catalog::Catalog& catalog);

/// The parameters of a dataset's plugin without a recipe, for `backstop data`: `given` with
/// `overrides` of its keys. The recipe that results has a [dataset] alone.
CheckedRecipe check_dataset(const catalog::Manifest& plugin, toml::table given,
                            const std::vector<std::string>& overrides,
                            const catalog::Catalog& catalog);

/// The resolved recipe as TOML, in the order of the list above; reading it gives the same recipe.
std::string to_toml(const Recipe& recipe);

/// A recipe fragment for one plugin with all its defaults, for `backstop inspect` to print.
std::string recipe_fragment(const catalog::Manifest& manifest);

}  // namespace backstop::recipe
