#include "host/catalog/manifest.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/catalog/note_text.hpp"
#include "host/schema/check_value.hpp"
#include "host/schema/optimizer.hpp"
#include "host/schema/sections.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::catalog {
namespace {

using schema::Parameter;
using schema::Parameters;
using schema::ParameterType;

const std::vector<std::string>& kind_names() {
  static const std::vector<std::string> kNames = {"attack", "defense", "scheduler", "dataset"};
  return kNames;
}

const Parameters& manifest_keys() {
  using enum ParameterType;
  static const Parameters kKeys = {
      {.key = "name"},
      {.key = "kind", .type = choice, .choices = kind_names()},
      {.key = "version"},
      {.key = "summary"},
      {.key = "license"},
      {.key = "reference", .optional = true},
      {.key = "authors", .list = true, .optional = true},
      {.key = "homepage", .optional = true},
      {.key = "needs",
       .type = choice,
       .list = true,
       .optional = true,
       .choices = {"clean-data", "training-data", "feature-maps", "batch-norm", "cuda"}},
      {.key = "poisons", .type = boolean, .optional = true},
      {.key = "detects",
       .type = choice,
       .list = true,
       .optional = true,
       .choices = {"model", "inputs"}},
      {.key = "repairs", .type = boolean, .optional = true},
  };
  return kKeys;
}

/// Of [parameters.KEY], beside `default`.
const Parameters& parameter_keys() {
  using enum ParameterType;
  static const Parameters kKeys = {
      {.key = "type", .type = choice, .choices = schema::parameter_type_names()},
      {.key = "list", .type = boolean, .optional = true},
      {.key = "optional", .type = boolean, .optional = true},
      {.key = "must_exist", .type = boolean, .optional = true},
      {.key = "minimum", .type = floating, .optional = true},
      {.key = "exclusive_minimum", .type = floating, .optional = true},
      {.key = "maximum", .type = floating, .optional = true},
      {.key = "exclusive_maximum", .type = floating, .optional = true},
      {.key = "choices", .list = true, .optional = true},
      {.key = "unit", .optional = true},
      {.key = "help", .optional = true},
  };
  return kKeys;
}

/// Of [training]: the parameters of every training, without the defaults.
const Parameters& training_parameters() {
  using enum ParameterType;
  static const Parameters kParameters = {
      {.key = "epochs",
       .type = integer,
       .minimum = 1,
       .unit = "epochs",
       .help = "Passes over the images"},
      {.key = "batch_size",
       .type = integer,
       .minimum = 1,
       .unit = "images",
       .help = "Images per step"},
      {.key = "optimizer", .type = optimizer, .help = "Optimizer of the training"},
      {.key = "scheduler", .type = scheduler, .help = "Learning rate of the training"},
  };
  return kParameters;
}

/// Of [training.KEY], beside `default`.
const Parameters& training_keys() {
  static const Parameters kKeys = [] {
    Parameters keys;
    for (const Parameter& key : parameter_keys())
      if (key.type == ParameterType::floating || key.key == "help") keys.push_back(key);
    return keys;
  }();
  return kKeys;
}

/// Of [augmentation]: what a recipe can say of it, and for which images the padding is meant.
const Parameters& augmentation_keys() {
  static const Parameters kKeys = [] {
    Parameters keys = schema::sections().augmentation;
    keys.push_back({.key = "image_size",
                    .type = ParameterType::integer,
                    .default_value = toml::array{0},
                    .minimum = 0});
    return keys;
  }();
  return kKeys;
}

const Parameters& calibration_keys() {
  using enum ParameterType;
  static const Parameters kKeys = {
      {.key = "source"},
      {.key = "clean_scores", .type = floating, .list = true},
      {.key = "backdoored_scores", .type = floating, .list = true},
  };
  return kKeys;
}

/// A lower-case letter, then lower-case letters, digits and `separator`.
bool is_identifier(std::string_view text, char separator) {
  const auto lower = [](char c) { return c >= 'a' && c <= 'z'; };
  return !text.empty() && lower(text[0]) && std::all_of(text.begin(), text.end(), [&](char c) {
    return lower(c) || (c >= '0' && c <= '9') || c == separator;
  });
}

constexpr const char* kPluginName = "a name that matches [a-z][a-z0-9-]*";

std::vector<std::string> strings(const toml::table& values, std::string_view key) {
  std::vector<std::string> result;
  if (const toml::array* array = values[key].as_array())
    for (const toml::node& element : *array) result.push_back(element.ref<std::string>());
  return result;
}

class ParameterReader {
 public:
  /// `group` is "parameters" or "training".
  ParameterReader(NoteText& note, const std::string& group, const std::string& key,
                  const toml::table& table)
      : note_(note), table_(table), name_(group + "." + key) {
    parameter_.key = key;
  }

  /// [parameters.KEY].
  Parameter read() {
    note_.forbid_other_keys(table_, parameter_keys(), name_ + ".", {"default"});
    const toml::table values = note_.read(table_, parameter_keys(), name_ + ".");
    const auto type = values["type"].value<std::string>();
    if (!type) return parameter_;  // nothing else can be judged without it
    const auto& types = schema::parameter_type_names();
    parameter_.type =
        static_cast<ParameterType>(std::find(types.begin(), types.end(), *type) - types.begin());
    parameter_.list = values["list"].value_or(false);
    parameter_.optional = values["optional"].value_or(false);
    parameter_.must_exist = values["must_exist"].value_or(false);
    parameter_.choices = strings(values, "choices");
    parameter_.unit = values["unit"].value_or(std::string());
    read_common(values);
    return parameter_;
  }

  /// [training.KEY]: `parameter` with the group's own default, range and help.
  Parameter read(const Parameter& parameter) {
    note_.forbid_other_keys(table_, training_keys(), name_ + ".", {"default"});
    parameter_ = parameter;
    read_common(note_.read(table_, training_keys(), name_ + "."));
    return parameter_;
  }

 private:
  void read_common(const toml::table& values) {
    parameter_.help = values["help"].value_or(parameter_.help);
    if (values.contains("minimum") || values.contains("exclusive_minimum"))
      std::tie(parameter_.minimum, parameter_.minimum_exclusive) =
          bound(values, "minimum", "exclusive_minimum");
    std::tie(parameter_.maximum, parameter_.maximum_exclusive) =
        bound(values, "maximum", "exclusive_maximum");
    check_type(schema::parameter_type_names()[static_cast<std::size_t>(parameter_.type)]);
    check_choices();
    check_range();
    read_default();
  }

  /// `key` is there.
  void problem(std::string_view key, std::string_view text) {
    note_.add(*table_.get(key), fmt::format("`{}.{}` {}", name_, key, text));
  }

  std::pair<std::optional<double>, bool> bound(const toml::table& values,
                                               std::string_view inclusive,
                                               std::string_view exclusive) {
    const auto closed = values[inclusive].value<double>();
    const auto open = values[exclusive].value<double>();
    if (closed && open)
      problem(exclusive, fmt::format("cannot be used together with `{}`", inclusive));
    return {closed ? closed : open, open && !closed};
  }

  /// What goes only with some of the types.
  void check_type(std::string_view type) {
    const auto only_for = [&](std::string_view key, std::string_view types, bool allowed) {
      if (table_.contains(key) && !allowed) problem(key, fmt::format("is only for {}", types));
    };
    using enum ParameterType;
    const bool number = parameter_.type == integer || parameter_.type == floating;
    for (const char* key : {"minimum", "exclusive_minimum", "maximum", "exclusive_maximum"})
      only_for(key, "types `integer` and `float`", number);
    only_for("must_exist", "type `path`", parameter_.type == path);
    only_for("choices", "type `choice`", parameter_.type == choice);
    if (parameter_.list && (parameter_.type == boolean || parameter_.type == scheduler ||
                            parameter_.type == optimizer))
      problem("list", fmt::format("cannot be used with type `{}`", type));
  }

  void check_choices() {
    if (parameter_.type != ParameterType::choice) return;
    const auto& choices = parameter_.choices;
    if (!table_.contains("choices"))
      problem("type", "is `choice`, which needs `choices = [\"...\"]`");
    else if (choices.empty() || std::find(choices.begin(), choices.end(), "") != choices.end())
      problem("choices", "must hold at least one string, and no empty ones");
    for (auto choice = choices.begin(); choice != choices.end(); ++choice)
      if (std::find(choices.begin(), choice, *choice) != choice)
        problem("choices", fmt::format("lists \"{}\" twice", *choice));
  }

  void check_range() {
    const auto& [minimum, maximum] = std::tie(parameter_.minimum, parameter_.maximum);
    if (!minimum || !maximum) return;
    const bool open = parameter_.minimum_exclusive || parameter_.maximum_exclusive;
    if (*minimum > *maximum || (open && *minimum == *maximum))
      note_.add(table_, fmt::format("`{}` has an empty range: its minimum is {} and its "
                                    "maximum is {}",
                                    name_, *minimum, *maximum));
  }

  void read_default() {
    const toml::node* value = table_.get("default");
    if (value == nullptr) return;
    if (parameter_.type == ParameterType::choice && parameter_.choices.empty()) return;
    if (parameter_.optional)
      problem("default", "cannot be used with `optional`: what is left out has no value");
    // Reads it like a key of the parameter's own type.
    Parameter as_key = parameter_;
    as_key.key = "default";
    toml::table values = note_.read(table_, {as_key}, name_ + ".");
    const toml::node* checked = values.get("default");
    if (checked == nullptr) return;
    if (parameter_.type == ParameterType::scheduler) check_scheduler(*value->as_table());
    if (parameter_.type == ParameterType::optimizer) check_optimizer(*value->as_table());
    parameter_.default_value.push_back(*checked);
  }

  void check_scheduler(const toml::table& table) {
    const toml::table values = note_.read(table, schema::sections().scheduler, default_prefix());
    const toml::node* plugin = values.get("plugin");
    if (plugin != nullptr && !is_identifier(plugin->ref<std::string>(), '-'))
      note_.add(*table.get("plugin"),
                schema::mismatch(default_prefix() + "plugin", kPluginName, *plugin));
  }

  void check_optimizer(const toml::table& table) {
    if (!table.contains("name")) {
      note_.add(table, fmt::format("`{}name` is missing", default_prefix()));
      return;
    }
    const auto keys = schema::optimizer_parameters(table["name"].value_or(std::string()));
    const toml::table values = note_.read(table, keys, default_prefix());
    if (values.contains("name")) note_.forbid_other_keys(table, keys, default_prefix());
  }

  [[nodiscard]] std::string default_prefix() const { return name_ + ".default."; }

  NoteText& note_;
  const toml::table& table_;
  std::string name_;  ///< "parameters.KEY"
  Parameter parameter_;
};

Parameters read_parameters(NoteText& note, const toml::table& table) {
  const auto& reserved = schema::reserved_keys();
  Parameters parameters;
  for (const auto& [toml_key, node] : schema::in_order(table)) {
    const std::string key(toml_key->str());
    const std::string shown = base::shortened(key);
    if (!is_identifier(key, '_'))
      note.add(toml_key->source(),
               fmt::format("a parameter's name must match [a-z][a-z0-9_]*, got `{}`", shown));
    else if (std::find(reserved.begin(), reserved.end(), key) != reserved.end())
      note.add(
          toml_key->source(),
          fmt::format("a parameter cannot be called `{}`: the host uses that key itself", key));
    else if (const toml::table* description = node->as_table())
      parameters.push_back(ParameterReader(note, "parameters", key, *description).read());
    else
      note.add(*node, schema::mismatch("parameters." + shown, "a table", *node));
  }
  return parameters;
}

/// Appends those of [training].
void read_training(NoteText& note, const toml::node& node, Parameters& parameters) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    note.add(node, schema::mismatch("training", "a table", node));
    return;
  }
  note.forbid_other_keys(*table, training_parameters(), "training.");
  for (const Parameter& parameter : training_parameters()) {
    const toml::node* entry = table->get(parameter.key);
    if (entry == nullptr)
      note.add(node, fmt::format("`training.{}` is missing", parameter.key));
    else if (std::any_of(parameters.begin(), parameters.end(),
                         [&](const Parameter& other) { return other.key == parameter.key; }))
      note.add(*entry, fmt::format("`{}` is in `parameters` and in `training`", parameter.key));
    else if (const toml::table* description = entry->as_table())
      parameters.push_back(
          ParameterReader(note, "training", parameter.key, *description).read(parameter));
    else
      note.add(*entry, schema::mismatch("training." + parameter.key, "a table", *entry));
  }
}

void read_augmentation(NoteText& note, const toml::node& node, Manifest& manifest) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    note.add(node, schema::mismatch("augmentation", "a table", node));
    return;
  }
  if (manifest.kind != Kind::dataset) {
    note.add(node, "`augmentation` is only for kind `dataset`");
    return;
  }
  note.forbid_other_keys(*table, augmentation_keys(), "augmentation.");
  const toml::table values = note.read(*table, augmentation_keys(), "augmentation.");
  manifest.horizontal_flip = values["horizontal_flip"].value_or(false);
  manifest.crop_padding = values["crop_padding"].value_or(std::int64_t{0});
  manifest.crop_image_size = values["image_size"].value_or(std::int64_t{0});
}

std::vector<double> sorted_numbers(const toml::table& values, std::string_view key) {
  std::vector<double> result;
  if (const toml::array* array = values[key].as_array())
    for (const toml::node& element : *array) result.push_back(element.ref<double>());
  std::sort(result.begin(), result.end());
  return result;
}

void read_calibration(NoteText& note, const toml::node& node, Manifest& manifest) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    note.add(node, schema::mismatch("calibration", "a table", node));
    return;
  }
  if (manifest.detects.empty()) note.add(node, "`calibration` needs `detects`");
  note.forbid_other_keys(*table, calibration_keys(), "calibration.");
  const toml::table values = note.read(*table, calibration_keys(), "calibration.");
  manifest.calibration = {.source = values["source"].value_or(std::string()),
                          .clean_scores = sorted_numbers(values, "clean_scores"),
                          .backdoored_scores = sorted_numbers(values, "backdoored_scores")};
}

}  // namespace

std::string_view to_string(Kind kind) {
  return kind_names()[static_cast<std::size_t>(kind)];
}

std::optional<Kind> kind_from(std::string_view text) {
  for (const Kind kind : kKinds) {
    if (to_string(kind) == text) return kind;
  }
  return std::nullopt;
}

bool Manifest::judges_models() const {
  return std::find(detects.begin(), detects.end(), "model") != detects.end();
}

bool Manifest::scores_inputs() const {
  return std::find(detects.begin(), detects.end(), "inputs") != detects.end();
}

bool Manifest::asks_for(std::string_view what) const {
  return std::find(needs.begin(), needs.end(), what) != needs.end();
}

std::int64_t Manifest::crop_padding_for(std::int64_t image_size) const {
  if (crop_image_size == 0) return crop_padding;
  return std::llround(static_cast<double>(crop_padding * image_size) /
                      static_cast<double>(crop_image_size));
}

Manifest parse_manifest(std::string_view text, const std::string& where, bool newer) {
  NoteText note(text, where, "correct the plugin's manifest and build it again");
  if (newer) note.tolerate_unknown_keys();
  const toml::table& table = note.table();
  note.forbid_other_keys(table, manifest_keys(), "",
                         {"parameters", "training", "augmentation", "calibration"});
  const toml::table values = note.read(table, manifest_keys());
  const auto string = [&](const char* key) { return values[key].value_or(std::string()); };

  Manifest manifest;
  manifest.name = string("name");
  manifest.version = string("version");
  manifest.summary = string("summary");
  manifest.license = string("license");
  manifest.reference = string("reference");
  manifest.authors = strings(values, "authors");
  manifest.homepage = string("homepage");
  manifest.needs = strings(values, "needs");
  for (const char* key : {"version", "summary", "license"})
    if (values.contains(key) && string(key).empty())
      note.add(*table.get(key), fmt::format("`{}` must not be empty", key));
  if (values.contains("name") && !is_identifier(manifest.name, '-'))
    note.add(*table.get("name"), schema::mismatch("name", kPluginName, *table.get("name")));
  const auto kind = kind_from(string("kind"));
  manifest.kind = kind.value_or(Kind::attack);
  manifest.poisons = values["poisons"].value_or(true);
  if (values.contains("poisons") && kind && kind != Kind::attack)
    note.add(*table.get("poisons"), "`poisons` is only for kind `attack`");
  manifest.detects = strings(values, "detects");
  manifest.repairs = values["repairs"].value_or(true);
  for (const char* key : {"detects", "repairs"})
    if (values.contains(key) && kind && kind != Kind::defense)
      note.add(*table.get(key), fmt::format("`{}` is only for kind `defense`", key));
  if (!manifest.repairs && manifest.detects.empty())
    note.add(*table.get("repairs"), "`repairs` can be false only where `detects` names something");
  if (const toml::node* parameters = table.get("parameters")) {
    if (const toml::table* all = parameters->as_table())
      manifest.parameters = read_parameters(note, *all);
    else
      note.add(*parameters, schema::mismatch("parameters", "a table", *parameters));
  }
  if (const toml::node* training = table.get("training"))
    read_training(note, *training, manifest.parameters);
  if (const toml::node* augmentation = table.get("augmentation"); augmentation && kind)
    read_augmentation(note, *augmentation, manifest);
  if (const toml::node* calibration = table.get("calibration"))
    read_calibration(note, *calibration, manifest);
  note.throw_if_any();
  manifest.unknown_keys = note.unknown_keys();
  return manifest;
}

}  // namespace backstop::catalog
