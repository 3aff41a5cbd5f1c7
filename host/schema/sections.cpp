#include "host/schema/sections.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "host/schema/architectures.hpp"
#include "host/schema/normalizations.hpp"

namespace backstop::schema {
namespace {

using enum ParameterType;

constexpr double kLargestSeed = 9007199254740992;  // 2^53: JSON readers keep it exactly

Parameters bounds(std::optional<double> smallest, std::optional<double> largest) {
  return {{.key = "minimum",
           .type = floating,
           .optional = true,
           .minimum = smallest,
           .maximum = largest,
           .help = "Smallest value that meets the expectation"},
          {.key = "maximum",
           .type = floating,
           .optional = true,
           .minimum = smallest,
           .maximum = largest,
           .help = "Largest value that meets the expectation"}};
}

std::vector<std::string> names_of_architectures() {
  std::vector<std::string> names;
  for (const ArchitectureInfo& architecture : architectures())
    names.emplace_back(architecture.name);
  return names;
}

std::vector<std::string> names_of_normalizations() {
  std::vector<std::string> names;
  for (const NamedNormalization& normalization : normalizations())
    names.emplace_back(normalization.name);
  return names;
}

/// "preact-resnet18 (...), resnet18 (...)"
std::string summary_of_architectures() {
  std::string text;
  for (const ArchitectureInfo& architecture : architectures())
    text +=
        fmt::format("{}{} ({})", text.empty() ? "" : ", ", architecture.name, architecture.summary);
  return text;
}

Parameter part_switch() {
  return {.key = "enabled",
          .type = boolean,
          .default_value = toml::array{true},
          .help = "Whether this part of the audit is done"};
}

Parameter number(std::string key, double value, double minimum, double maximum, std::string help) {
  return {.key = std::move(key),
          .type = floating,
          .default_value = toml::array{value},
          .minimum = minimum,
          .maximum = maximum,
          .minimum_exclusive = true,
          .help = std::move(help)};
}

Parameter whole_number(std::string key, std::int64_t value, double minimum, double maximum,
                       std::string help) {
  return {.key = std::move(key),
          .type = integer,
          .default_value = toml::array{value},
          .minimum = minimum,
          .maximum = maximum,
          .help = std::move(help)};
}

/// docs/audit.md has the sources of the defaults.
void add_audit(Sections& sections) {
  sections.audit = {
      {.key = "controls",
       .type = boolean,
       .default_value = toml::array{true},
       .help = "Audit a clean model and an exact purification too, to compare with"},
  };
  sections.audit_parts = {
      {"retuning",
       {part_switch(),
        number("clean_fraction", 0.02, 0, 1,
               "Images that the model is retuned with, as a share of the training set"),
        whole_number("poisoned_images", 5, 1, 1'000'000, "How many of them are poisoned"),
        whole_number("epochs", 5, 1, 100'000, "Passes over these images"),
        whole_number("batch_size", 128, 1, 65'536, "Images in an optimizer step"),
        number("rate", 0.01, 0, 100, "Learning rate of SGD with momentum 0.9")}},
      {"path",
       {part_switch(),
        whole_number("points", 11, 2, 1001, "Models to measure on the path, both ends included")}},
      {"reactivation",
       {part_switch(),
        number("norm", 3, 0, 1e6, "L2 norm that the perturbation of pixels in 0 .. 1 may have"),
        whole_number("images", 1000, 1, 10'000'000, "Training images to search it on"),
        whole_number("steps", 100, 1, 1'000'000, "Steps of the search"),
        whole_number("batch_size", 128, 1, 65'536, "Images in a step")}},
      {"sequela",
       {part_switch(),
        number("universal_radius", 10.0 / 255, 0, 1,
               "Largest change of a pixel by the universal perturbation"),
        number("radius", 2.0 / 255, 0, 1, "Largest change of a pixel by the attack on each image"),
        whole_number("iterations", 7, 1, 100'000, "Steps of the attack on each image"),
        whole_number("images", 1000, 1, 10'000'000, "Test images to attack one by one")}},
  };
}

Sections make_sections() {
  Sections sections;
  sections.recipe = {
      {.key = "schema",
       .type = integer,
       .minimum = 1,
       .maximum = 1,
       .help = "Version of the recipe format"},
      {.key = "name", .help = "Name of the run and of its folder"},
      {.key = "scenario",
       .type = choice,
       .default_value = toml::array{"standalone"},
       .choices = {"standalone", "transfer", "encoder"},
       .help = "What is trained, attacked and defended"},
      {.key = "seed",
       .type = integer,
       .default_value = toml::array{0},
       .minimum = 0,
       .maximum = kLargestSeed,
       .help = "Seed of every random draw of the run"},
  };
  sections.dataset = {
      {.key = "plugin", .help = "Dataset"},
      {.key = "image_size",
       .type = integer,
       .optional = true,
       .minimum = 8,
       .maximum = 512,
       .unit = "pixels",
       .help = "Resize images to squares with sides of this length"},
      {.key = "classes",
       .list = true,
       .optional = true,
       .minimum = 0,
       .help = "Labels or names of the classes to use; they become 0, 1, ..."},
      {.key = "per_class",
       .type = integer,
       .default_value = toml::array{0},
       .minimum = 0,
       .help = "Training images to use of each class; 0: all"},
      {.key = "limit",
       .type = integer,
       .default_value = toml::array{0},
       .minimum = 0,
       .help = "Training images to use; 0: all"},
      {.key = "test_limit",
       .type = integer,
       .default_value = toml::array{0},
       .minimum = 0,
       .help = "Test images to use; 0: all"},
  };
  sections.replaceable = {"image_size", "classes", "per_class"};
  sections.augmentation = {
      {.key = "crop_padding",
       .type = integer,
       .default_value = toml::array{0},
       .minimum = 0,
       .maximum = 256,
       .unit = "pixels",
       .help = "Padding before a random crop; 0: no crop"},
      {.key = "horizontal_flip",
       .type = boolean,
       .default_value = toml::array{false},
       .help = "Mirror half of the training images"},
  };
  sections.model = {
      {.key = "architecture",
       .type = choice,
       .default_value = toml::array{"preact-resnet18"},
       .choices = names_of_architectures(),
       .help = "Network: " + summary_of_architectures() +
               "; with `file` left out to recognize it from the file"},
      {.key = "width",
       .type = integer,
       .default_value = toml::array{64},
       .minimum = 1,
       .maximum = 1024,
       .help = "Channels of the network's first stage; the default is 16 for the ResNets for "
               "CIFAR; with `file` left out to recognize it"},
      {.key = "file",
       .type = path,
       .optional = true,
       .must_exist = true,
       .help = "Start from this model instead of training one: safetensors, a checkpoint of "
               "torch.save, or TorchScript"},
      {.key = "normalization",
       .type = choice,
       .optional = true,
       .choices = names_of_normalizations(),
       .help = "Normalization of the model in `file`, by name, where the file does not record it; "
               "left out: the one with the highest clean accuracy on the training images"},
      {.key = "mean",
       .type = floating,
       .list = true,
       .optional = true,
       .help = "The same in numbers: mean of each channel of pixels in [0, 1], or of all "
               "channels"},
      {.key = "deviation",
       .type = floating,
       .list = true,
       .optional = true,
       .minimum = 1e-6,
       .maximum = 1e6,
       .help = "The standard deviation that goes with `mean`"},
  };
  sections.attack = {
      {.key = "plugin", .help = "Attack"},
      {.key = "file",
       .type = path,
       .optional = true,
       .must_exist = true,
       .help = "Use the trigger and the poisoned images of an earlier run"},
      {.key = "poison_ratio",
       .type = floating,
       .default_value = toml::array{0.1},
       .minimum = 0,
       .maximum = 1,
       .minimum_exclusive = true,
       .help = "Share of the training set that the attacker poisons"},
      {.key = "target",
       .type = integer,
       .default_value = toml::array{0},
       .minimum = 0,
       .help = "Class that triggered images should be assigned to"},
      {.key = "labels",
       .type = choice,
       .default_value = toml::array{"all-to-one"},
       .choices = {"all-to-one", "all-to-all"},
       .help = "all-to-one: every class becomes `target`; all-to-all: class y becomes y + 1"},
  };
  sections.training = {
      {.key = "epochs",
       .type = integer,
       .default_value = toml::array{100},
       .minimum = 0,
       .maximum = 100000,
       .help = "Passes over the training set"},
      {.key = "batch_size",
       .type = integer,
       .default_value = toml::array{128},
       .minimum = 1,
       .maximum = 65536,
       .help = "Images in an optimizer step"},
      {.key = "optimizer",
       .type = optimizer,
       .default_value =
           toml::array{toml::table{{"name", "sgd"}, {"momentum", 0.9}, {"weight_decay", 5e-4}}},
       .help = "Optimizer"},
      {.key = "scheduler",
       .type = scheduler,
       .default_value = toml::array{toml::table{{"plugin", "cosine"}, {"rate", 0.01}}},
       .help = "Learning rate"},
  };
  sections.defense = {
      {.key = "name",
       .optional = true,
       .help = "What the tables call it; left out: the plugin's name"},
      {.key = "plugin", .help = "Defense"},
      {.key = "measure_every",
       .type = integer,
       .default_value = toml::array{1},
       .minimum = 0,
       .unit = "epochs",
       .help = "How often to measure on the test set; 0: only at the end"},
  };
  sections.detector = {
      {.key = "name",
       .optional = true,
       .help = "What the tables call it; left out: the plugin's name"},
      {.key = "plugin", .help = "Defense that judges a model, or scores images"},
  };
  sections.clean_fraction = {.key = "clean_fraction",
                             .type = floating,
                             .default_value = toml::array{0.05},
                             .minimum = 0,
                             .maximum = 1,
                             .minimum_exclusive = true,
                             .help = "Share of the training set that the defense is given"};
  sections.clean_images = {.key = "clean_images",
                           .type = integer,
                           .minimum = 1,
                           .help = "The same as a number of images"};
  sections.test_images = {.key = "test_limit",
                          .type = integer,
                          .default_value = toml::array{0},
                          .minimum = 0,
                          .unit = "images",
                          .help =
                              "Clean test images to score, and as many with the trigger but for "
                              "those of the target class; 0: all"};
  sections.compute = {
      {.key = "device", .default_value = toml::array{"auto"}, .help = "auto, cpu, cuda or cuda:N"},
      {.key = "precision",
       .type = choice,
       .default_value = toml::array{"auto"},
       .choices = {"auto", "float32", "bfloat16"},
       .help = "Number format of the training"},
      {.key = "threads",
       .type = integer,
       .default_value = toml::array{0},
       .minimum = 0,
       .maximum = 4096,
       .help = "0: one for each core"},
      {.key = "kernels",
       .type = choice,
       .default_value = toml::array{"own"},
       .choices = {"own", "libtorch"},
       .help = "Which kernels to use: Backstop's own where available, or LibTorch's"},
  };
  add_audit(sections);
  sections.scheduler = {{.key = "plugin", .help = "Scheduler"}};
  sections.share = bounds(0, 1);
  sections.difference = bounds(-1, 1);
  sections.amount = bounds(std::nullopt, std::nullopt);
  return sections;
}

}  // namespace

const Sections& sections() {
  static const Sections kSections = make_sections();
  return kSections;
}

const std::vector<std::string>& reserved_keys() {
  static const std::vector<std::string> kKeys = [] {
    const Sections& host = sections();
    std::vector<std::string> keys{"augmentation", "training", host.clean_fraction.key,
                                  host.clean_images.key};
    for (const auto* table : {&host.dataset, &host.attack, &host.defense, &host.scheduler})
      for (const Parameter& parameter : *table) keys.push_back(parameter.key);
    std::erase_if(keys, [&](const std::string& key) {
      const auto& free = host.replaceable;
      return std::find(free.begin(), free.end(), key) != free.end();
    });
    return keys;
  }();
  return kKeys;
}

}  // namespace backstop::schema
