// A recipe: what one run does. Parsed, overridden, checked against the plugins' manifests, and
// resolved: every default is spelled out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <toml++/toml.h>

#include "host/catalog/catalog.hpp"
#include "host/recipe/diagnostic.hpp"
#include "host/report/expectations.hpp"

namespace backstop::recipe {

enum class Scenario { standalone, transfer, encoder };
std::string_view to_string(Scenario scenario);

/// A plugin with the parameters that the recipe gives it.
struct PluginUse {
  const catalog::PluginEntry* plugin = nullptr;  ///< of the catalog that checked the recipe
  toml::table parameters;                        ///< the manifest's own, resolved
  std::string key;                    ///< a nested scheduler: the parameter that it is given for
  std::vector<PluginUse> schedulers;  ///< one for each scheduler among the parameters

  [[nodiscard]] const std::string& name() const { return plugin->manifest.name; }
  [[nodiscard]] bool needs(std::string_view what) const;
};

/// `{ name = "sgd", ... }`; see OptimizerOptions of the SDK.
struct OptimizerUse {
  std::string name = "sgd";  ///< sgd, adam or adamw
  double momentum = 0.9, weight_decay = 5e-4;
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
};

struct TrainingUse {
  std::int64_t epochs = 0, batch_size = 0;
  OptimizerUse optimizer;
  PluginUse scheduler;
};

/// `[dataset]` and `[pretraining.dataset]`. A parameter of the plugin's own takes the place of the
/// host's key of the same name, which then has the value that leaves the dataset as it is.
struct DatasetUse {
  PluginUse use;
  std::int64_t image_size = 0;               ///< pixels; 0: as the dataset has them
  std::vector<std::int64_t> class_labels;    ///< classes by label, or
  std::vector<std::string> class_names;      ///< by name; both empty: all
  std::int64_t per_class = 0;                ///< training images of each class; 0: all
  std::int64_t limit = 0, test_limit = 0;    ///< images of each split; 0: all
  std::optional<std::int64_t> crop_padding;  ///< pixels; nothing: the manifest's for their size
  bool horizontal_flip = false;
};

/// Constants of the normalization (v / 255 - mean) / deviation, one or three numbers.
struct NormalizationUse {
  std::vector<double> mean, deviation;
};

/// Without a file, the first two are given and the last one is not.
struct ModelUse {
  std::optional<std::string> file;          ///< start from this model instead of training one
  std::optional<std::string> architecture;  ///< nothing: recognized from the file
  std::optional<std::int64_t> width;        ///< nothing: recognized from the file
  /// Of the model in `file`; nothing: what the file records, or what fits the images best.
  std::optional<NormalizationUse> normalization;
};

struct AttackUse {
  PluginUse use;
  std::optional<std::string> file;  ///< what the attack has learned and poisoned
  double poison_ratio = 0;          ///< 0 .. 1
  std::int64_t target = 0;
  bool all_to_all = false;
  TrainingUse training;
};

struct DefenseUse {
  PluginUse use;
  std::string name;                          ///< its row's, unique
  std::optional<std::int64_t> clean_images;  ///< that it is given; or
  double clean_fraction = 0;                 ///< that share of the training set; both 0: none
  std::int64_t measure_every = 1;            ///< epochs; 0: only at the end
};

/// A plugin that judges the undefended model, or scores images that it is given.
struct DetectorUse {
  PluginUse use;
  std::string name;                          ///< its row's, unique among defenses too
  std::optional<std::int64_t> clean_images;  ///< as a defense's
  double clean_fraction = 0;
  std::int64_t test_images = 0;  ///< clean ones to score; 0: all
};

/// `[audit]`: what is done to each defended model to see whether its backdoor is gone. A part that
/// is not there is not done.
struct AuditUse {
  struct Retuning {
    double clean_fraction = 0, rate = 0;
    std::int64_t poisoned_images = 0, epochs = 0, batch_size = 0;
  };
  struct Path {
    std::int64_t points = 0;
  };
  struct Reactivation {
    double norm = 0;
    std::int64_t images = 0, steps = 0, batch_size = 0;
  };
  struct Sequela {
    double universal_radius = 0, radius = 0;
    std::int64_t iterations = 0, images = 0;
  };
  bool controls = true;
  std::optional<Retuning> retuning;
  std::optional<Path> path;
  std::optional<Reactivation> reactivation;
  std::optional<Sequela> sequela;
};

struct ComputeUse {
  std::string device;        ///< auto, cpu, cuda or cuda:N
  std::string precision;     ///< auto, float32 or bfloat16
  std::int64_t threads = 0;  ///< 0: all cores
  bool own_kernels = true;
};

/// A resolved recipe: every default is filled in.
struct Recipe {
  std::string name;
  Scenario scenario = Scenario::standalone;
  std::int64_t seed = 0;
  std::optional<DatasetUse> pretraining;  ///< with an attack, in every scenario but standalone
  DatasetUse dataset;
  ModelUse model;
  std::optional<AttackUse> attack;  ///< nothing: the model in `model.file` is taken as it is
  std::vector<DefenseUse> defenses;
  std::vector<DetectorUse> detectors;
  std::optional<AuditUse> audit;
  ComputeUse compute;
  std::vector<report::Expectation> expectations;
  /// The same as TOML. Its keys' source positions hold the documented order, in which to_toml()
  /// writes them.
  toml::table table;
};

/// The row of the model itself, before any defense.
inline constexpr const char* kUndefended = "no defense";
/// A row's name as the name of its files: every byte of ASCII but letters, digits, dots and dashes
/// becomes a dash.
std::string file_name_of(std::string row);

struct CheckedRecipe {
  /// What `[matrix]` expands to, one without it; empty when there is an error.
  std::vector<Recipe> recipes;
  /// For each recipe what sets it apart from the others, the seed aside: "attack.size = 5".
  std::vector<std::string> groups;
  std::vector<Diagnostic> diagnostics;
  std::string source;  ///< the recipe's text, for render()
  [[nodiscard]] bool has_errors() const;
};

/// Reads `file`, applies `overrides` ("key.path=value", the value read as TOML, as a plain string
/// where it is none; `defense.0.epochs` counts from 0), checks and resolves. All problems are found
/// at once, up to 200. Throws HostError(usage) only when the file cannot be read or is beyond the
/// bounds that docs/recipes.md states, which let every check end within seconds.
/// A new `plugin` in an override or a matrix drops, with a warning, those of the table's keys that
/// it does not know; a scheduler or optimizer table without `plugin` or `name` changes the default.
CheckedRecipe check_recipe(const std::string& file, const std::vector<std::string>& overrides,
                           const catalog::Catalog& catalog);
/// The same for a recipe in memory; `name` stands for the file in the diagnostics.
CheckedRecipe check_recipe_text(std::string text, const std::string& name,
                                const std::vector<std::string>& overrides,
                                const catalog::Catalog& catalog);

/// The parameters of a dataset's plugin without a recipe, for `backstop data`: `given` with
/// `overrides` of its keys. Of the recipe that results only `dataset.use` is filled in.
CheckedRecipe check_dataset(const catalog::PluginEntry& plugin, toml::table given,
                            const std::vector<std::string>& overrides,
                            const catalog::Catalog& catalog);

/// The resolved recipe as TOML, in the order of the list above; reading it gives the same recipe.
std::string to_toml(const Recipe& recipe);

/// A recipe fragment for one plugin with all its defaults, for `backstop inspect` to print.
std::string recipe_fragment(const catalog::Manifest& manifest);

}  // namespace backstop::recipe
