// A recipe, the plugins that it names, and a folder for the files that tests write.
#pragma once

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "host/recipe/recipe.hpp"

namespace backstop::recipe {

inline catalog::PluginEntry usable(std::string_view manifest) {
  catalog::PluginEntry entry;
  entry.manifest = catalog::parse_manifest(manifest, "test.toml");
  entry.path = "/plugins/" + entry.manifest.name + ".so";
  return entry;
}

inline std::string header(const char* name, const char* kind) {
  return std::string("name = \"") + name + "\"\nkind = \"" + kind +
         "\"\nversion = \"1.0.0\"\nsummary = \"For tests\"\nlicense = \"Apache-2.0\"\n";
}

inline catalog::Catalog test_catalog() {
  std::vector<catalog::PluginEntry> entries{
      usable(header("shapes", "dataset") + R"(
[augmentation]
crop_padding = 4
image_size = 32
horizontal_flip = true
[parameters.root]
type = "path"
must_exist = true
default = "/"
)"),
      usable(header("drawings", "dataset") + R"(
[parameters.classes]
type = "integer"
default = 10
minimum = 2
[parameters.image_size]
type = "integer"
default = 16
minimum = 0
)"),
      usable(header("badnets", "attack") + R"(
[parameters.patch_size]
type = "integer"
default = 3
minimum = 1
unit = "pixels"
help = "Side of the square patch"
[parameters.corner]
type = "choice"
choices = ["bottom-right", "top-left"]
default = "bottom-right"
)"),
      usable(header("blended", "attack") + R"(
[parameters.alpha]
type = "float"
default = 0.2
exclusive_minimum = 0
maximum = 1
[parameters.pattern]
type = "path"
optional = true
must_exist = true
)"),
      usable(header("fine-tuning", "defense") + R"(
needs = ["clean-data"]
[parameters.epochs]
type = "integer"
minimum = 0
[parameters.scheduler]
type = "scheduler"
default = { plugin = "constant", rate = 0.02 }
[parameters.optimizer]
type = "optimizer"
default = { name = "sgd" }
[parameters.milestones]
type = "float"
list = true
default = [0.5, 1]
minimum = 0
help = "Where it changes"
[parameters.freeze]
type = "boolean"
default = false
)"),
      usable(header("filter", "defense") + "needs = [\"training-data\"]\n"),
      usable(header("fast", "defense") + "needs = [\"cuda\"]\n"),
      usable(header("distil", "defense") + "needs = [\"clean-data\", \"feature-maps\"]\n"),
      usable(header("constant", "scheduler") + R"(
[parameters.rate]
type = "float"
default = 0.01
minimum = 0
)"),
      usable(header("cosine", "scheduler") + R"(
[parameters.rate]
type = "float"
minimum = 0
[parameters.final_rate]
type = "float"
default = 0
minimum = 0
)"),
      usable(header("super-fine-tuning", "scheduler") + R"(
[parameters.base]
type = "float"
default = 0.001
[parameters.maximum_1]
type = "float"
default = 0.1
)"),
  };
  catalog::PluginEntry old;
  old.manifest.name = "wanet";
  old.manifest.kind = catalog::Kind::attack;
  old.path = "/plugins/wanet.so";
  old.refusal = catalog::Refusal{"built for ABI 0.0, this host is 0.1", "build it again"};
  entries.push_back(old);
  return catalog::Catalog(entries);
}

inline constexpr std::string_view kValidRecipe = R"(schema = 1
name = "example"
seed = 7

[dataset]
plugin = "shapes"

[attack]
plugin = "blended"
poison_ratio = 1
alpha = 0.25

[attack.training]
epochs = 2
optimizer = { name = "adam", weight_decay = 0 }

[[defense]]
plugin = "fine-tuning"
epochs = 3

[[defense]]
name = "super"
plugin = "fine-tuning"
epochs = 3
clean_images = 500
scheduler = { plugin = "super-fine-tuning", maximum_1 = 0.2 }

[expect]
"no defense".attack_success_rate = { minimum = 0.9 }
super.clean_accuracy_drop = { minimum = -0.1, maximum = 0.05 }
)";

class RecipeTest : public ::testing::Test {
 protected:
  RecipeTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "backstop-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder");
    folder_ = pattern;
    file_ = (folder_ / "r.toml").string();
  }
  ~RecipeTest() override { std::filesystem::remove_all(folder_); }

  CheckedRecipe check(std::string_view text, const std::vector<std::string>& overrides = {}) {
    std::ofstream(file_, std::ios::binary) << text;
    return check_recipe(file_, overrides, catalog_);
  }

  /// One line for each diagnostic: place, severity, message, hint.
  std::string problems(const CheckedRecipe& checked) const {
    std::string out;
    for (const auto& diagnostic : checked.diagnostics) {
      if (diagnostic.file != file_) out += diagnostic.file + ' ';
      if (diagnostic.line != 0)
        out += std::to_string(diagnostic.line) + ':' + std::to_string(diagnostic.column) + '+' +
               std::to_string(diagnostic.length) + ' ';
      if (diagnostic.severity == Diagnostic::Severity::warning) out += "warning ";
      if (diagnostic.environment) out += "environment ";
      out += diagnostic.message + (diagnostic.hint.empty() ? "" : " | " + diagnostic.hint) + '\n';
    }
    return out;
  }
  std::string problems_of(std::string_view text, const std::vector<std::string>& overrides = {}) {
    return problems(check(text, overrides));
  }
  /// Those of the valid recipe with one of its lines replaced.
  std::string problems_with(std::string_view line, std::string_view replacement) {
    return problems_of(edited(line, replacement));
  }
  static std::string edited(std::string_view line, std::string_view replacement) {
    std::string text(kValidRecipe);
    const auto at = text.find(line);
    if (at == std::string::npos) throw std::logic_error("no such line");
    return text.replace(at, line.size(), replacement);
  }

  std::filesystem::path folder_;
  std::string file_;
  catalog::Catalog catalog_ = test_catalog();
};

}  // namespace backstop::recipe
