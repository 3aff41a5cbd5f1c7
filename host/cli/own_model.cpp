#include "host/cli/own_model.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <sstream>

#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/files.hpp"
#include "host/base/text.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/engine_library.hpp"
#include "host/engine/engine.hpp"
#include "host/report/model_text.hpp"
#include "host/schema/normalizations.hpp"

namespace backstop::cli {
namespace {

namespace po = boost::program_options;

/// Of the user's images, the share that nothing is trained or searched on.
constexpr double kTestFraction = 0.2;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

template <typename Number>
Number number_of(const char* option, const std::string& text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stopped != end || text.empty())
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("`--{}` must be a number, got `{}`", option,
                                      base::printable(base::valid_utf8(text))));
  return number;
}

toml::array numbers_of(const char* option, const std::string& text) {
  toml::array numbers;
  for (const auto& part : split(text)) numbers.push_back(number_of<double>(option, part));
  return numbers;
}

/// [model] of the recipe.
toml::table model_of(const Invocation& invocation) {
  toml::table model{{"file", invocation.arguments[0]}};
  const auto name = invocation.one("normalization");
  const auto mean = invocation.one("mean"), deviation = invocation.one("std");
  if (name && (mean || deviation))
    throw base::HostError(base::ExitCode::usage,
                          "`--normalization` is given together with `--mean` or `--std`",
                          "give a name, or the numbers");
  if (mean.has_value() != deviation.has_value())
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("`--{}` is given, but `--{}` is not", mean ? "mean" : "std",
                                      mean ? "std" : "mean"),
                          "a normalization is (v / 255 - mean) / std");
  if (name && schema::find_normalization(*name) == nullptr) {
    std::vector<std::string> known;
    for (const auto& one : schema::normalizations()) known.emplace_back(one.name);
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("there is no normalization `{}`", base::printable(base::valid_utf8(*name))),
        fmt::format("choose one of {}, or give --mean and --std", base::list_of(known)));
  }
  if (name) model.insert("normalization", *name);
  if (mean) model.insert("mean", numbers_of("mean", *mean));
  if (deviation) model.insert("deviation", numbers_of("std", *deviation));
  return model;
}

toml::table dataset_of(const Invocation& invocation) {
  const auto images = invocation.one("images");
  if (!images)
    throw base::HostError(base::ExitCode::usage, "`--images` is missing",
                          "name a folder with clean images of the model's classes, one folder for "
                          "each class");
  const std::string plugin = invocation.one("dataset").value_or("image-folder");
  toml::table dataset{{"plugin", plugin}, {"root", *images}};
  const auto size = invocation.one("image-size");
  if (plugin == "image-folder") {
    dataset.insert("test_fraction", kTestFraction);
    dataset.insert("image_size", size ? number_of<std::int64_t>("image-size", *size) : 0);
  } else if (size) {
    dataset.insert("image_size", number_of<std::int64_t>("image-size", *size));
  }
  if (const auto classes = invocation.one("classes")) {
    toml::array names;
    for (const auto& name : split(*classes)) names.push_back(name);
    dataset.insert("classes", names);
  }
  return dataset;
}

/// "scan-resnet56" of resnet56.th: a folder of that name holds the runs.
std::string run_name(const std::string& verb, const std::string& file) {
  constexpr std::size_t kLongest = 40;
  std::string name = verb + "-";
  for (const char c : std::filesystem::path(file).stem().string()) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '_' || c == '-';
    if (name.size() < kLongest) name += plain ? c : '-';
  }
  return name;
}

}  // namespace

void add_model_options(po::options_description& options) {
  const auto value = [](const char* name) {
    return po::value<std::vector<std::string>>()->value_name(name);
  };
  auto add = options.add_options();
  add("images", value("DIR"),
      "clean images, a folder for each class (or train/ and test/ with those)");
  add("dataset", value("PLUGIN"), "read DIR with this dataset plugin instead of `image-folder`");
  add("classes", value("NAMES"), "the folders' names in the model's order, separated by commas");
  add("image-size", value("N"), "resize images to N x N pixels; left out: as the first image is");
  add("normalization", value("NAME"),
      "imagenet, cifar10, cifar10-std, mnist, half or none; left out: what fits");
  add("mean", value("NUMBERS"), "the same in numbers: one, or three separated by commas");
  add("std", value("NUMBERS"), "the standard deviation that goes with --mean");
  add("seed", value("N"), "seed of every random draw; left out: 0");
  add("threads", value("N"), "threads to compute with; left out: one for each core");
  add("recipe", value("FILE"), "write the recipe of the run to FILE as well");
}

toml::table recipe_for(const std::string& verb, const Invocation& invocation) {
  toml::table recipe{{"schema", 1},
                     {"name", run_name(verb, invocation.arguments[0])},
                     {"dataset", dataset_of(invocation)},
                     {"model", model_of(invocation)}};
  if (const auto seed = invocation.one("seed"))
    recipe.insert("seed", number_of<std::int64_t>("seed", *seed));
  if (const auto threads = invocation.one("threads"))
    recipe.insert("compute",
                  toml::table{{"threads", number_of<std::int64_t>("threads", *threads)}});
  return recipe;
}

recipe::CheckedRecipe checked_recipe_for(const toml::table& recipe, const Invocation& invocation,
                                         const catalog::Catalog& catalog) {
  std::ostringstream text;
  text << recipe << '\n';
  if (const auto file = invocation.one("recipe")) base::write_file(*file, text.str());
  recipe::CheckedRecipe checked =
      recipe::check_recipe_text(text.str(), "recipe", invocation.all("set"), catalog);
  print_diagnostics(checked, invocation.color_err);
  return checked;
}

nlohmann::json model_facts(const std::string& file) {
  engine::ModelDescription description;
  engine_function<void(const std::filesystem::path&, engine::ModelDescription&)>(
      engine::kEngineDescribeModel)(file, description);
  if (description.code != base::ExitCode::done)
    throw base::HostError(description.code, description.error, description.hint);
  return description.facts;
}

void require_usable(const nlohmann::json& facts) {
  if (facts.contains("error"))
    throw base::HostError(base::ExitCode::environment, facts["error"].get<std::string>(),
                          facts["hint"].get<std::string>());
}

void show_model(const Invocation& invocation) {
  const nlohmann::json facts = model_facts(invocation.arguments[0]);
  require_usable(facts);
  if (!invocation.has("json")) print(report::model_text(facts));
}

}  // namespace backstop::cli
