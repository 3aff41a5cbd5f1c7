#include "host/recipe/schema.hpp"

#include <string>
#include <utility>

#include <fmt/format.h>

#include "host/schema/architectures.hpp"

namespace backstop::recipe {
namespace {

constexpr double kLargestSeed = 9007199254740992;  // 2^53: JSON readers keep it exactly

catalog::Parameter parameter(std::string key, catalog::ParameterType type, std::string help) {
  catalog::Parameter made;
  made.key = std::move(key);
  made.type = type;
  made.help = std::move(help);
  return made;
}

catalog::Parameter with_default(catalog::Parameter made, auto value) {
  made.default_value.push_back(std::move(value));
  return made;
}

catalog::Parameter optional(catalog::Parameter made) {
  made.optional = true;
  return made;
}

catalog::Parameter within(catalog::Parameter made, std::optional<double> minimum,
                          std::optional<double> maximum) {
  made.minimum = minimum;
  made.maximum = maximum;
  return made;
}

catalog::Parameter text(std::string key, std::string help) {
  return parameter(std::move(key), catalog::ParameterType::string, std::move(help));
}

catalog::Parameter flag(std::string key, bool value, std::string help) {
  return with_default(parameter(std::move(key), catalog::ParameterType::boolean, std::move(help)),
                      value);
}

catalog::Parameter integer(std::string key, std::int64_t value, double minimum,
                           std::optional<double> maximum, std::string help) {
  return with_default(
      within(parameter(std::move(key), catalog::ParameterType::integer, std::move(help)), minimum,
             maximum),
      value);
}

catalog::Parameter number(std::string key, double value, double minimum,
                          std::optional<double> maximum, std::string help) {
  return with_default(
      within(parameter(std::move(key), catalog::ParameterType::floating, std::move(help)), minimum,
             maximum),
      value);
}

/// The first choice is the default.
catalog::Parameter choice(std::string key, std::vector<std::string> choices, std::string help) {
  catalog::Parameter made =
      parameter(std::move(key), catalog::ParameterType::choice, std::move(help));
  made.default_value.push_back(choices.front());
  made.choices = std::move(choices);
  return made;
}

catalog::Parameter architecture() {
  std::vector<std::string> names;
  std::string help = "The network:";
  for (const schema::ArchitectureInfo& info : schema::architectures()) {
    help += fmt::format("{} {} ({})", names.empty() ? "" : ",", info.name, info.summary);
    names.emplace_back(info.name);
  }
  return choice("architecture", std::move(names), std::move(help));
}

catalog::Parameter below_maximum(catalog::Parameter made) {
  made.maximum_exclusive = true;
  return made;
}

catalog::Parameter above_minimum(catalog::Parameter made) {
  made.minimum_exclusive = true;
  return made;
}

/// One number, or one for each channel.
catalog::Parameter constants(std::string key, std::string help, bool positive) {
  catalog::Parameter made =
      optional(parameter(std::move(key), catalog::ParameterType::floating, std::move(help)));
  made.list = true;
  if (positive) {
    made.minimum = 0;
    made.minimum_exclusive = true;
  }
  return made;
}

std::vector<catalog::Parameter> bounds(double minimum) {
  const auto bound = [&](const char* key, const char* help) {
    return optional(within(parameter(key, catalog::ParameterType::floating, help), minimum, 1));
  };
  return {bound("minimum", "Smallest value that the run may show"),
          bound("maximum", "Largest value that the run may show")};
}

Sections make_sections() {
  Sections made;
  made.recipe = {
      within(parameter("schema", catalog::ParameterType::integer, "Version of the recipe's format"),
             1, 1),
      text("name", "Names the run and its folder"),
      choice("scenario", {"standalone", "transfer", "encoder"}, "The chain that runs"),
      integer("seed", 0, 0, kLargestSeed, "Every random draw of the run follows from it"),
  };
  catalog::Parameter classes = optional(within(
      text("classes", "Labels or names of the classes to use; they become 0, 1, ..."), 0, {}));
  classes.list = true;
  made.dataset = {
      text("plugin", "The dataset"),
      optional(within(parameter("image_size", catalog::ParameterType::integer,
                                "Resize to a square of so many pixels a side"),
                      8, 512)),
      std::move(classes),
      integer("per_class", 0, 0, {}, "Training images of each class to use; 0: all"),
      integer("limit", 0, 0, {}, "Training images to use; 0: all"),
      integer("test_limit", 0, 0, {}, "Test images to use; 0: all"),
  };
  made.augmentation = {
      integer("crop_padding", 0, 0, 256, "Pixels of padding before a random crop; 0: no crop"),
      flag("horizontal_flip", false, "Mirror half of the training images"),
  };
  catalog::Parameter file =
      optional(parameter("file", catalog::ParameterType::path,
                         "Start from these weights instead of training a model"));
  file.must_exist = true;
  made.model = {
      architecture(),
      integer("width", 64, 1, 1024, "Channels of the network's first stage"),
      std::move(file),
      constants("mean",
                "Normalization of the model in `file`, where the file does not record it: "
                "mean of each channel of pixels in [0, 1]",
                false),
      constants("deviation", "and its standard deviation", true),
  };
  catalog::Parameter learnt = optional(
      parameter("file", catalog::ParameterType::path,
                "What the attack has learnt, and what it poisoned, instead of making them anew"));
  learnt.must_exist = true;
  made.attack = {
      text("plugin", "The attack"),
      std::move(learnt),
      above_minimum(
          number("poison_ratio", 0.1, 0, 1, "Share of the training set that the attacker changes")),
      integer("target", 0, 0, {}, "Class that triggered images are to go to"),
      choice("labels", {"all-to-one", "all-to-all"}, "all-to-all: class y goes to y + 1"),
  };
  made.training = {
      integer("epochs", 100, 0, 100000, "Passes over the training set"),
      integer("batch_size", 128, 1, 65536, "Images in an optimiser step"),
      with_default(parameter("optimizer", catalog::ParameterType::optimizer, "The optimiser"),
                   toml::table{{"name", "sgd"}, {"momentum", 0.9}, {"weight_decay", 5e-4}}),
      with_default(parameter("scheduler", catalog::ParameterType::scheduler, "The learning rate"),
                   toml::table{{"plugin", "cosine"}, {"rate", 0.01}}),
  };
  made.defense = {
      optional(text("name", "What the tables call it; left out: the plugin's name")),
      text("plugin", "The defense"),
      integer("measure_every", 1, 0, {},
              "Epochs from one measurement on the test set to the next; 0: at the end alone"),
  };
  made.clean_fraction =
      above_minimum(number("clean_fraction", 0.05, 0, 1, "Share of the training set it is given"));
  made.clean_images = within(
      parameter("clean_images", catalog::ParameterType::integer, "The same as a number of images"),
      1, {});
  made.compute = {
      with_default(text("device", "auto, cpu, cuda or cuda:N"), std::string("auto")),
      choice("precision", {"auto", "float32", "bfloat16"}, "Number format of the training"),
      integer("threads", 0, 0, 4096, "0: all cores"),
      choice("kernels", {"own", "libtorch"}, "Who computes what Backstop has faster kernels for"),
  };
  made.scheduler = {text("plugin", "The scheduler")};
  made.optimizer_name = choice("name", {"sgd", "adam", "adamw"}, "The optimiser");
  const catalog::Parameter decay = number("weight_decay", 5e-4, 0, {}, "Weight decay");
  made.sgd = {
      below_maximum(number("momentum", 0.9, 0, 1, "Momentum")),
      decay,
      flag("nesterov", false, "Nesterov's momentum"),
  };
  made.adam = {
      below_maximum(number("beta1", 0.9, 0, 1, "Decay of the gradient's mean")),
      below_maximum(number("beta2", 0.999, 0, 1, "Decay of the squared gradient's mean")),
      above_minimum(number("epsilon", 1e-8, 0, {}, "Keeps the division finite")),
      decay,
  };
  made.share = bounds(0);
  made.difference = bounds(-1);
  return made;
}

}  // namespace

const Sections& sections() {
  static const Sections kSections = make_sections();
  return kSections;
}

}  // namespace backstop::recipe
