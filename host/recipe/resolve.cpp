#include "host/recipe/resolve.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/recipe/recipe.hpp"
#include "host/recipe/schema.hpp"
#include "host/recipe/write.hpp"
#include "host/schema/architectures.hpp"
#include "host/report/metrics.hpp"

namespace backstop::recipe {
namespace {

using Parameters = std::vector<catalog::Parameter>;

/// The table being checked.
struct Scope {
  std::string label;           ///< "[attack]", "scheduler `cosine`"; empty outside every table
  Path path;                   ///< as in --set
  toml::source_region header;  ///< where something missing is reported
};

std::string ticked(std::string_view text) {
  return '`' + std::string(text) + '`';
}

std::string with_article(catalog::Kind kind) {
  return (kind == catalog::Kind::attack ? "an " : "a ") + std::string(to_string(kind));
}

std::string list_of(const std::vector<std::string>& words, std::string (*form)(std::string_view)) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + form(word);
  return text;
}

bool needs(const catalog::Manifest& manifest, std::string_view what) {
  return std::find(manifest.needs.begin(), manifest.needs.end(), what) != manifest.needs.end();
}
bool needs_clean_data(const catalog::Manifest& manifest) {
  return needs(manifest, "clean-data");
}

bool declares(const catalog::Manifest& plugin, std::string_view key) {
  return std::any_of(plugin.parameters.begin(), plugin.parameters.end(),
                     [&](const catalog::Parameter& parameter) { return parameter.key == key; });
}

bool is_clean_data_key(std::string_view key) {
  return key == "clean_images" || key == "clean_fraction";
}

/// What was found, short enough for a sentence.
std::string found(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (const auto* array = node.as_array(); array && array->is_array_of_tables())
    return "an array of tables";
  std::string text = value_text(node);
  constexpr std::size_t kLongest = 60;
  if (text.size() <= kLongest) return text;
  std::size_t end = kLongest;
  while ((static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80U) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

std::string expected_type(catalog::ParameterType type) {
  switch (type) {
    case catalog::ParameterType::boolean:
      return "true or false";
    case catalog::ParameterType::integer:
      return "an integer";
    case catalog::ParameterType::floating:
      return "a number";
    case catalog::ParameterType::string:
    case catalog::ParameterType::choice:
      return "a string";
    case catalog::ParameterType::path:
      return "a path in quotes";
    case catalog::ParameterType::scheduler:
      return "a table { plugin = \"...\", ... }";
    case catalog::ParameterType::optimizer:
      return "a table { name = \"...\", ... }";
  }
  return {};
}

std::string expected_list(catalog::ParameterType type) {
  switch (type) {
    case catalog::ParameterType::boolean:
      return "an array of true and false";
    case catalog::ParameterType::integer:
      return "an array of integers";
    case catalog::ParameterType::floating:
      return "an array of numbers";
    case catalog::ParameterType::path:
      return "an array of paths in quotes";
    case catalog::ParameterType::string:
    case catalog::ParameterType::choice:
      return "an array of strings";
    case catalog::ParameterType::scheduler:
    case catalog::ParameterType::optimizer:
      return "an array of tables";
  }
  return {};
}

bool in_range(double value, const catalog::Parameter& parameter) {
  if (parameter.minimum &&
      (parameter.minimum_exclusive ? value <= *parameter.minimum : value < *parameter.minimum))
    return false;
  return !parameter.maximum ||
         (parameter.maximum_exclusive ? value < *parameter.maximum : value <= *parameter.maximum);
}

std::string limit_text(double limit) {
  std::string text = value_text(toml::value<double>(limit));
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

std::string expected_range(const catalog::Parameter& parameter) {
  std::string low, high;
  if (parameter.minimum)
    low =
        (parameter.minimum_exclusive ? "more than " : "at least ") + limit_text(*parameter.minimum);
  if (parameter.maximum)
    high =
        (parameter.maximum_exclusive ? "less than " : "at most ") + limit_text(*parameter.maximum);
  if (parameter.minimum && parameter.maximum && *parameter.minimum == *parameter.maximum)
    return limit_text(*parameter.minimum);
  return low + (low.empty() || high.empty() ? "" : " and ") + high;
}

class Checker {
 public:
  Checker(const Changes& changes, const std::string& file, const catalog::Catalog& catalog,
          std::vector<Diagnostic>& diagnostics)
      : changes_(changes), file_(file), catalog_(catalog), diagnostics_(diagnostics) {}

  toml::table recipe(const toml::table& given);
  toml::table dataset(const catalog::Manifest& plugin, const toml::table& given);

 private:
  Diagnostic& report(const toml::source_region& region, std::string message,
                     std::string hint = {}) {
    return diagnostics_.emplace_back(
        diagnostic_at(region, file_, {std::move(message), std::move(hint)}));
  }

  const toml::source_region& place_of(const toml::source_region& region, const Scope& scope) const;
  const toml::source_region& place_of(const toml::node& node, const Scope& scope) const;
  Scope inner(const Scope& scope, const std::string& key, std::string label,
              const toml::node* node) const;
  void unknown_keys(const toml::table& given, const Parameters& parameters, const Scope& scope,
                    std::initializer_list<std::string_view> others,
                    const catalog::Manifest* plugin);
  toml::table keys(const toml::table& given, const Parameters& parameters, const Scope& scope,
                   const toml::table* defaults = nullptr);

  bool value(const toml::node& node, const catalog::Parameter& parameter, const Scope& scope,
             toml::array& out);
  bool scalar(const toml::node& node, const catalog::Parameter& parameter, const std::string& name,
              const Scope& scope, toml::array& out);
  bool number(const toml::node& node, const catalog::Parameter& parameter, const std::string& name,
              const toml::source_region& region, toml::array& out);
  bool string(const std::string& text, const catalog::Parameter& parameter, const std::string& name,
              const toml::source_region& region, toml::array& out);
  void must_exist(const std::string& path, const std::string& name,
                  const toml::source_region& region);
  toml::table scheduler(const toml::table& given, const toml::table* defaults, Scope scope);
  toml::table optimizer(const toml::table& given, const toml::table* defaults, Scope scope);

  const catalog::PluginEntry* plugin(catalog::Kind kind, const toml::node* name,
                                     const Scope& scope);
  void needs_of_model(const catalog::Manifest& manifest, const toml::source_region& region);
  void warn_of_shadowing(const catalog::PluginEntry& entry, const toml::source_region& region);
  toml::table host_section(const toml::table& parent, const std::string& key,
                           const Parameters& parameters, const Scope& outer);
  toml::table plugin_section(catalog::Kind kind, const toml::table& recipe,
                             const std::string& subsection, Parameters inside, const Scope& top);
  /// Whether the defender adapts a model that was trained on another dataset.
  [[nodiscard]] bool adapts() const { return scenario_ == "transfer" || scenario_ == "encoder"; }
  toml::table pretraining_dataset(const toml::table& recipe, const Scope& top);
  Parameters dataset_keys(const toml::table& given, const catalog::Manifest* plugin,
                          const Scope& scope) const;
  void chosen_classes(const toml::table& given, const toml::table& resolved, const Scope& scope);
  void normalization(const toml::table& recipe, const toml::table& model, const Scope& top);
  toml::array defenses(const toml::table& recipe, const Scope& top);
  toml::table defense(const toml::table& given, const Scope& scope);
  void add_row(const std::string& name, const toml::source_region& place);
  toml::table expectations(const toml::table& recipe, const Scope& top);
  toml::table metrics(const toml::table& given, const Scope& scope);
  toml::table bounds(const toml::table& given, const Parameters& parameters, const Scope& scope);

  const Changes& changes_;
  const std::string& file_;
  const catalog::Catalog& catalog_;
  std::vector<Diagnostic>& diagnostics_;
  std::string architecture_;  ///< of [model]
  std::string scenario_;
  std::vector<std::string> rows_{kUndefended};  ///< what [expect] may name
};

/// `region`, unless a manifest's default has it or an override made the table: those have no place
/// in the recipe.
const toml::source_region& Checker::place_of(const toml::source_region& region,
                                             const Scope& scope) const {
  const auto& path = region.path;
  return path && (*path == file_ || path->starts_with(kOverrideLabel)) ? region : scope.header;
}

const toml::source_region& Checker::place_of(const toml::node& node, const Scope& scope) const {
  return place_of(node.source(), scope);
}

Scope Checker::inner(const Scope& scope, const std::string& key, std::string label,
                     const toml::node* node) const {
  Scope made{std::move(label), scope.path, node ? place_of(*node, scope) : scope.header};
  made.path.push_back(key);
  return made;
}

/// A key of a resolved table; its position says which place among its table's keys it has.
toml::key ordered_key(std::string_view key, std::size_t index) {
  const auto line = static_cast<toml::source_index>(index + 1);
  return toml::key(key, toml::source_region{{line, 1}, {line, 1}, {}});
}

void Checker::unknown_keys(const toml::table& given, const Parameters& parameters,
                           const Scope& scope, std::initializer_list<std::string_view> others,
                           const catalog::Manifest* plugin) {
  std::vector<std::string> known;
  for (const auto& parameter : parameters) known.push_back(parameter.key);
  known.insert(known.end(), others.begin(), others.end());
  for (const auto& [key, node] : given) {
    const std::string name(key.str());
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const auto& place = place_of(key.source(), scope);
    Path path = scope.path;
    path.push_back(name);
    if (plugin && changes_.swapped.count(scope.path) > 0 && changes_.keys.count(path) == 0) {
      report(place, "dropped `" + name + "`: " + std::string(to_string(plugin->kind)) + " `" +
                        plugin->name + "` has no such parameter")
          .severity = Diagnostic::Severity::warning;
      continue;
    }
    if (plugin && plugin->kind == catalog::Kind::defense && is_clean_data_key(name)) {
      report(place,
             "`" + name + "` is given, but defense `" + plugin->name + "` takes no clean data",
             "leave it out");
      continue;
    }
    const auto near = base::nearest(name, known);
    report(place, "unknown key `" + name + '`' + (scope.label.empty() ? "" : " in " + scope.label),
           near ? "did you mean `" + *near + "`?" : "known keys: " + list_of(known, ticked));
  }
}

toml::table Checker::keys(const toml::table& given, const Parameters& parameters,
                          const Scope& scope, const toml::table* defaults) {
  toml::table resolved;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const catalog::Parameter& parameter = parameters[i];
    const toml::node* node = given.get(parameter.key);
    if (!node && defaults) node = defaults->get(parameter.key);
    if (!node && !parameter.default_value.empty()) node = parameter.default_value.get(0);
    if (!node) {
      if (!parameter.optional)
        report(scope.header, "`" + parameter.key + "` is missing" +
                                 (scope.label.empty() ? "" : " in " + scope.label));
      continue;
    }
    toml::array checked;
    if (value(*node, parameter, scope, checked))
      resolved.insert(ordered_key(parameter.key, i), std::move(*checked.get(0)));
  }
  return resolved;
}

bool Checker::value(const toml::node& node, const catalog::Parameter& parameter, const Scope& scope,
                    toml::array& out) {
  if (!parameter.list) return scalar(node, parameter, ticked(parameter.key), scope, out);
  const auto* given = node.as_array();
  if (!given) {
    report(place_of(node, scope), ticked(parameter.key) + " is " + found(node) + ", it must be " +
                                      expected_list(parameter.type));
    return false;
  }
  toml::array checked;
  bool good = true;
  std::size_t number = 0;
  for (const auto& element : *given) {
    ++number;
    good &= scalar(element, parameter,
                   "element " + std::to_string(number) + " of " + ticked(parameter.key), scope,
                   checked);
  }
  out.push_back(std::move(checked));
  return good;
}

bool Checker::scalar(const toml::node& node, const catalog::Parameter& parameter,
                     const std::string& name, const Scope& scope, toml::array& out) {
  const auto& region = place_of(node, scope);
  switch (parameter.type) {
    case catalog::ParameterType::boolean:
      if (!node.is_boolean()) break;
      out.push_back(node.as_boolean()->get());
      return true;
    case catalog::ParameterType::integer:
      if (!node.is_integer()) break;
      return number(node, parameter, name, region, out);
    case catalog::ParameterType::floating:
      if (!node.is_number()) break;
      return number(node, parameter, name, region, out);
    case catalog::ParameterType::string:
    case catalog::ParameterType::choice:
    case catalog::ParameterType::path:
      if (!node.is_string()) break;
      return string(node.as_string()->get(), parameter, name, region, out);
    case catalog::ParameterType::scheduler:
    case catalog::ParameterType::optimizer: {
      const auto* table = node.as_table();
      if (!table) break;
      const auto* defaults = parameter.default_value.get_as<toml::table>(0);
      Scope within = inner(scope, parameter.key, name, table);
      out.push_back(parameter.type == catalog::ParameterType::scheduler
                        ? scheduler(*table, defaults, std::move(within))
                        : optimizer(*table, defaults, std::move(within)));
      return true;
    }
  }
  std::string hint;
  if (parameter.type == catalog::ParameterType::scheduler && node.is_string())
    hint = "write " + parameter.key + " = { plugin = " + found(node) + " }";
  if (parameter.type == catalog::ParameterType::optimizer && node.is_string())
    hint = "write " + parameter.key + " = { name = " + found(node) + " }";
  report(region, name + " is " + found(node) + ", it must be " + expected_type(parameter.type),
         std::move(hint));
  return false;
}

bool Checker::number(const toml::node& node, const catalog::Parameter& parameter,
                     const std::string& name, const toml::source_region& region, toml::array& out) {
  const double size = *node.value<double>() + 0.0;  // no negative zero
  if (!std::isfinite(size)) {
    report(region, name + " is " + found(node) + ", it must be finite");
    return false;
  }
  if (!in_range(size, parameter)) {
    report(region, name + " is " + found(node) + ", it must be " + expected_range(parameter));
    return false;
  }
  if (parameter.type == catalog::ParameterType::integer)
    out.push_back(node.as_integer()->get());
  else
    out.push_back(size);
  return true;
}

bool Checker::string(const std::string& text, const catalog::Parameter& parameter,
                     const std::string& name, const toml::source_region& region, toml::array& out) {
  const auto& choices = parameter.choices;
  if (parameter.type == catalog::ParameterType::choice &&
      std::find(choices.begin(), choices.end(), text) == choices.end()) {
    const auto near = base::nearest(text, choices);
    report(region,
           name + " is " + in_quotes(text) + ", it must be one of " + list_of(choices, in_quotes),
           near ? "did you mean " + in_quotes(*near) + '?' : "");
    return false;
  }
  if (parameter.type == catalog::ParameterType::path && parameter.must_exist)
    must_exist(text, name, region);
  out.push_back(text);
  return true;
}

void Checker::must_exist(const std::string& path, const std::string& name,
                         const toml::source_region& region) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) return;
  std::string hint;
  if (std::filesystem::path(path).is_relative())
    hint = "it is relative to the folder that the command runs in, " +
           std::filesystem::current_path(error).string();
  report(region, name + " is " + in_quotes(path) + ": there is no such file or folder",
         std::move(hint))
      .environment = true;
}

const catalog::PluginEntry* Checker::plugin(catalog::Kind kind, const toml::node* name,
                                            const Scope& scope) {
  if (!name || !name->is_string()) return nullptr;  // reported as missing or of a wrong type
  const std::string& wanted = name->as_string()->get();
  const auto& region = place_of(*name, scope);
  if (const auto* entry = catalog_.find(kind, wanted)) {
    warn_of_shadowing(*entry, region);
    return entry;
  }

  const std::string what(to_string(kind));
  const catalog::PluginEntry* refused = nullptr;
  const catalog::PluginEntry* other = nullptr;
  for (const auto& entry : catalog_.entries()) {
    if (entry.manifest.name != wanted) continue;
    // The kind of a file whose manifest could not be read is not known.
    if (entry.refusal && (entry.manifest.kind == kind || entry.manifest.version.empty()))
      refused = refused ? refused : &entry;
    if (!entry.refusal) other = &entry;
  }
  if (refused) {
    report(region,
           what + " `" + wanted + "` cannot be used: " + refused->path.string() + ": " +
               refused->refusal->message,
           refused->refusal->hint)
        .plugin = true;
    return nullptr;
  }
  const auto names = catalog_.names(kind);
  const auto near = base::nearest(wanted, names);
  std::string hint = "known " + what + "s: " + list_of(names, ticked);
  if (near) hint = "did you mean `" + *near + "`?";
  if (names.empty()) hint = "no " + what + " was found; --plugin-path names folders to look in";
  if (other)
    report(
        region,
        "`" + wanted + "` is " + with_article(other->manifest.kind) + ", not " + with_article(kind),
        std::move(hint));
  else
    report(region, "there is no " + what + " `" + wanted + '`', std::move(hint));
  return nullptr;
}

/// Whoever reads the recipe expects the plugin that comes with the program.
void Checker::warn_of_shadowing(const catalog::PluginEntry& entry,
                                const toml::source_region& region) {
  const catalog::PluginEntry* shadowed = catalog_.shadowed_by(entry);
  if (!shadowed) return;
  const std::string message = std::string(to_string(entry.manifest.kind)) + " `" +
                              entry.manifest.name + "` is " + entry.path.string() + ", not the " +
                              (shadowed->built_in ? "built-in " : "later ") +
                              shadowed->path.string();
  const bool said = std::any_of(diagnostics_.begin(), diagnostics_.end(),
                                [&](const Diagnostic& each) { return each.message == message; });
  if (said) return;
  report(region, message, "remove or rename the former to use the latter").severity =
      Diagnostic::Severity::warning;
}

toml::table Checker::scheduler(const toml::table& given, const toml::table* defaults, Scope scope) {
  // `scheduler = { rate = 0.1 }` changes the rate of the default scheduler.
  if (given.contains("plugin")) defaults = nullptr;
  const auto* name = given.get("plugin");
  if (!name && defaults) name = defaults->get("plugin");
  Parameters parameters = sections().scheduler;
  if (const auto* entry = plugin(catalog::Kind::scheduler, name, scope)) {
    const auto& own = entry->manifest.parameters;
    parameters.insert(parameters.end(), own.begin(), own.end());
    scope.label = "scheduler `" + entry->manifest.name + '`';
    unknown_keys(given, parameters, scope, {}, &entry->manifest);
  }
  return keys(given, parameters, scope, defaults);
}

toml::table Checker::optimizer(const toml::table& given, const toml::table* defaults, Scope scope) {
  if (given.contains("name")) defaults = nullptr;
  const auto* node = given.get("name");
  if (!node && defaults) node = defaults->get("name");
  const auto& known = sections().optimizer_name;
  std::string name = known.choices.front();
  if (node) name = node->value_or(std::string());
  Parameters parameters{known};
  if (std::find(known.choices.begin(), known.choices.end(), name) != known.choices.end()) {
    const auto& own = name == "sgd" ? sections().sgd : sections().adam;
    parameters.insert(parameters.end(), own.begin(), own.end());
    scope.label = "optimizer `" + name + '`';
    unknown_keys(given, parameters, scope, {}, nullptr);
  }
  toml::table resolved = keys(given, parameters, scope, defaults);
  if (resolved["nesterov"].value_or(false) && resolved["momentum"].value_or(1.0) == 0.0)
    report(scope.header, "`nesterov` is true, but `momentum` is 0.0",
           "give `momentum`, or leave out `nesterov`");
  return resolved;
}

/// "[dataset.augmentation]"
std::string table_label(const Path& outer, const std::string& key) {
  std::string label = "[";
  for (const auto& part : outer) label += part + '.';
  return label + key + ']';
}

/// A table with the host's keys alone; left out, it has all its defaults.
toml::table Checker::host_section(const toml::table& parent, const std::string& key,
                                  const Parameters& parameters, const Scope& outer) {
  static const toml::table kEmpty;
  const auto* node = parent.get(key);
  const Scope scope = inner(outer, key, table_label(outer.path, key), node);
  if (node && !node->is_table()) {
    report(scope.header, ticked(key) + " is " + found(*node) + ", it must be a table",
           "write " + scope.label);
    return {};
  }
  const auto& given = node ? *node->as_table() : kEmpty;
  unknown_keys(given, parameters, scope, {}, nullptr);
  return keys(given, parameters, scope);
}

/// The host's keys of [dataset] but those that the plugin has itself.
Parameters Checker::dataset_keys(const toml::table& given, const catalog::Manifest* plugin,
                                 const Scope& scope) const {
  Parameters keys = sections().dataset;
  std::erase_if(
      keys, [&](const catalog::Parameter& key) { return plugin && declares(*plugin, key.key); });
  const auto* classes = given.get("classes");
  if (!classes) return keys;
  const auto* array = classes->as_array();
  const auto* first = array && !array->empty() ? array->get(0) : classes;
  for (auto& key : keys)  // labels or names: what comes first decides
    if (key.key == "classes" && first->is_integer()) key.type = catalog::ParameterType::integer;
  // A number is what the plugin before this one took for `classes`: dropped like its other keys.
  if (!array && changes_.swapped.count(scope.path) > 0)
    std::erase_if(keys, [](const catalog::Parameter& key) { return key.key == "classes"; });
  return keys;
}

void Checker::chosen_classes(const toml::table& given, const toml::table& resolved,
                             const Scope& scope) {
  const auto* classes = resolved["classes"].as_array();
  if (!classes) return;
  const auto& place = place_of(*given.get("classes"), scope);
  if (classes->size() < 2)
    report(place,
           "`classes` holds " + std::to_string(classes->size()) + ", it must hold at least 2",
           "leave it out for all classes");
  std::vector<std::string> seen;
  for (const auto& element : *classes) {
    const std::string text = value_text(element);
    if (std::find(seen.begin(), seen.end(), text) != seen.end())
      report(place, "`classes` holds " + text + " twice");
    seen.push_back(text);
  }
}

/// The manifest's padding, in proportion to the size that the recipe resizes images to.
std::int64_t default_crop_padding(const catalog::Manifest& manifest, const toml::table& dataset) {
  const auto size = dataset["image_size"].value<std::int64_t>();
  if (!size || manifest.crop_image_size == 0) return manifest.crop_padding;
  return std::llround(static_cast<double>(manifest.crop_padding * *size) /
                      static_cast<double>(manifest.crop_image_size));
}

/// [dataset], [pretraining.dataset] and [attack]: the host's keys, the plugin's, and a table of the
/// host's.
toml::table Checker::plugin_section(catalog::Kind kind, const toml::table& recipe,
                                    const std::string& subsection, Parameters inside,
                                    const Scope& top) {
  const std::string name(to_string(kind));
  const auto* node = recipe.get(name);
  const Scope scope = inner(top, name, table_label(top.path, name), node);
  if (!node || !node->is_table()) {
    report(scope.header,
           node ? ticked(name) + " is " + found(*node) + ", it must be a table"
                : scope.label + " is missing",
           "write " + scope.label + " with a `plugin`");
    return {};
  }
  const auto& given = *node->as_table();
  const auto* entry = plugin(kind, given.get("plugin"), scope);
  Parameters parameters = kind == catalog::Kind::dataset
                              ? dataset_keys(given, entry ? &entry->manifest : nullptr, scope)
                              : sections().attack;
  if (entry) {
    const auto& manifest = entry->manifest;
    parameters.insert(parameters.end(), manifest.parameters.begin(), manifest.parameters.end());
    unknown_keys(given, parameters, scope, {subsection}, &manifest);
  }
  toml::table resolved = keys(given, parameters, scope);
  if (entry && kind == catalog::Kind::dataset) {
    const auto& manifest = entry->manifest;
    for (auto& parameter : inside) {
      if (parameter.key == "crop_padding")
        parameter.default_value = toml::array{default_crop_padding(manifest, resolved)};
      if (parameter.key == "horizontal_flip")
        parameter.default_value = toml::array{manifest.horizontal_flip};
    }
  }
  if (kind == catalog::Kind::dataset && !(entry && declares(entry->manifest, "classes")))
    chosen_classes(given, resolved, scope);
  resolved.insert(ordered_key(subsection, parameters.size()),
                  host_section(given, subsection, inside, scope));
  return resolved;
}

toml::table Checker::pretraining_dataset(const toml::table& recipe, const Scope& top) {
  static const toml::table kEmpty;
  const auto* node = recipe.get("pretraining");
  const Scope scope = inner(top, "pretraining", "[pretraining]", node);
  const auto& given = node && node->is_table() ? *node->as_table() : kEmpty;
  unknown_keys(given, {}, scope, {"dataset"}, nullptr);
  return plugin_section(catalog::Kind::dataset, given, "augmentation", sections().augmentation,
                        scope);
}

void Checker::needs_of_model(const catalog::Manifest& manifest, const toml::source_region& region) {
  const auto* architecture = schema::find_architecture(architecture_);
  if (architecture == nullptr) return;  // reported where it stands
  for (const schema::ModelTrait& trait : schema::model_traits()) {
    if (needs(manifest, trait.need) && !(architecture->*trait.offered))
      report(region,
             "defense `" + manifest.name + "` needs " + std::string(trait.text) +
                 ", which a model of architecture " + in_quotes(architecture_) + " does not offer",
             "choose another defense, or another [model] architecture");
  }
}

toml::table Checker::defense(const toml::table& given, const Scope& scope) {
  Parameters parameters = sections().defense;
  const auto* entry = plugin(catalog::Kind::defense, given.get("plugin"), scope);
  if (entry) needs_of_model(entry->manifest, place_of(*given.get("plugin"), scope));
  if (entry && adapts() && needs(entry->manifest, "training-data"))
    report(place_of(*given.get("plugin"), scope),
           "defense `" + entry->manifest.name +
               "` needs the poisoned training set, which whoever adapts a model does not have",
           "the scenario \"standalone\" has it");
  if (!entry || needs_clean_data(entry->manifest)) {
    const auto* images = given.get("clean_images");
    const bool fraction = given.contains("clean_fraction");
    if (images && fraction)
      report(place_of(*images, scope), "`clean_images` and `clean_fraction` are both given",
             "leave out one of them");
    if (images) parameters.push_back(sections().clean_images);
    if (fraction || !images) parameters.push_back(sections().clean_fraction);
  }
  if (entry) {
    const auto& manifest = entry->manifest;
    parameters.insert(parameters.end(), manifest.parameters.begin(), manifest.parameters.end());
    if (needs_clean_data(manifest))
      unknown_keys(given, parameters, scope, {"clean_images", "clean_fraction"}, &manifest);
    else
      unknown_keys(given, parameters, scope, {}, &manifest);
  }
  toml::table resolved = keys(given, parameters, scope);

  const auto* node = given.contains("name") ? given.get("name") : given.get("plugin");
  const auto* name = node ? node->as_string() : nullptr;
  if (!name) return resolved;
  const std::string& text = name->get();
  const auto& place = place_of(*node, scope);
  const auto control = [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; };
  if (text.empty() || std::any_of(text.begin(), text.end(), control))
    report(place, "`name` is " + in_quotes(text) + ", it must be a line of text");
  else if (text == rows_.front())
    report(place, "a defense cannot be called \"no defense\"",
           "that is the row of the backdoored model itself; give another `name`");
  else if (std::find(rows_.begin(), rows_.end(), text) != rows_.end())
    report(place, "two defenses are called " + in_quotes(text), "give one of them another `name`");
  else
    add_row(text, place);
  resolved.insert(ordered_key("name", 0), text);
  return resolved;
}

/// Two rows must not share a file in the run's folder, either.
void Checker::add_row(const std::string& name, const toml::source_region& place) {
  constexpr std::size_t kLongest = 200;  // bytes; file systems allow 255, with an extension
  const std::string file = file_name_of(name);
  if (file.size() > kLongest)
    report(place, "`name` has " + std::to_string(file.size()) + " bytes, at most " +
                      std::to_string(kLongest) + " are allowed");
  const std::string undefended = file_name_of(kUndefended);
  if (file == undefended || file == undefended + ".attack")
    report(place,
           in_quotes(name) + " and \"no defense\" would share the file models/" + file +
               ".safetensors",
           "give the defense another `name`");
  for (const auto& row : rows_)
    if (row != kUndefended && file_name_of(row) == file)
      report(place,
             in_quotes(name) + " and " + in_quotes(row) + " would share the file models/" + file +
                 ".safetensors",
             "spaces and signs become dashes in file names; give one of them another `name`");
  rows_.push_back(name);
}

toml::array Checker::defenses(const toml::table& recipe, const Scope& top) {
  toml::array resolved;
  const auto* node = recipe.get("defense");
  if (!node) return resolved;
  const Scope all = inner(top, "defense", "[[defense]]", node);
  const auto wrong = [&](const toml::node& found_node) {
    report(place_of(found_node, all),
           "`defense` is " + found(found_node) + ", it must be an array of tables",
           "write [[defense]], once for each defense");
  };
  const auto* array = node->as_array();
  if (!array) {
    wrong(*node);
    return resolved;
  }
  std::size_t index = 0;
  for (const auto& element : *array) {
    if (const auto* table = element.as_table())
      resolved.push_back(defense(*table, inner(all, std::to_string(index), "[[defense]]", table)));
    else
      wrong(*array);
    ++index;
  }
  return resolved;
}

toml::table Checker::bounds(const toml::table& given, const Parameters& parameters,
                            const Scope& scope) {
  if (given.empty())
    report(scope.header, scope.label + " has no bounds", "give `minimum`, `maximum` or both");
  unknown_keys(given, parameters, scope, {}, nullptr);
  toml::table resolved = keys(given, parameters, scope);
  const auto minimum = resolved["minimum"].value<double>();
  const auto maximum = resolved["maximum"].value<double>();
  if (minimum && maximum && *minimum > *maximum)
    report(place_of(*given.get("minimum"), scope),
           fmt::format("`minimum` is {}, which is more than `maximum`, {}",
                       value_text(*resolved.get("minimum")), value_text(*resolved.get("maximum"))));
  return resolved;
}

toml::table Checker::metrics(const toml::table& given, const Scope& scope) {
  std::vector<std::string> known;
  for (const report::Metric* metric : report::expectable_metrics(scenario_))
    known.emplace_back(metric->key);
  if (given.empty())
    report(scope.header, scope.label + " has no metric", "metrics: " + list_of(known, ticked));
  toml::table resolved;
  for (const auto& [key, node] : given) {
    const std::string name(key.str());
    const report::Metric* metric = report::find_metric(name);
    if (metric == nullptr || !metric->in_expect) {
      const auto near = base::nearest(name, known);
      report(key.source(), "there is no metric `" + name + '`',
             near ? "did you mean `" + *near + "`?" : "metrics: " + list_of(known, ticked));
      continue;
    }
    if (std::find(known.begin(), known.end(), name) == known.end())
      report(key.source(),
             fmt::format("`{}` does not exist in the scenario {}: {}", name, in_quotes(scenario_),
                         metric->why_not),
             "metrics: " + list_of(known, ticked));
    const Scope within = inner(scope, name, ticked(name), &node);
    const bool signed_metric = metric->range == report::Range::difference;
    if (const auto* table = node.as_table())
      resolved.insert(
          name, bounds(*table, signed_metric ? sections().difference : sections().share, within));
    else
      report(within.header, fmt::format("`{}` must be a table, got {}", name, found(node)),
             "write { minimum = ..., maximum = ... }, or one of them");
  }
  return resolved;
}

toml::table Checker::expectations(const toml::table& recipe, const Scope& top) {
  toml::table resolved;
  const auto* node = recipe.get("expect");
  if (!node) return resolved;
  const Scope scope = inner(top, "expect", "[expect]", node);
  const auto* given = node->as_table();
  if (!given) {
    report(scope.header, fmt::format("`expect` must be a table, got {}", found(*node)),
           "write [expect]");
    return resolved;
  }
  for (const auto& [key, row] : *given) {
    const std::string name(key.str());
    if (std::find(rows_.begin(), rows_.end(), name) == rows_.end()) {
      const auto near = base::nearest(name, rows_);
      report(
          key.source(), "no defense is called " + in_quotes(name),
          near ? "did you mean " + in_quotes(*near) + '?' : "rows: " + list_of(rows_, in_quotes));
    }
    if (scenario_ == "encoder" && name == rows_.front())
      report(key.source(), "\"no defense\" is an encoder, which has no classes to measure",
             "to see what the backdoor does, train only the head: "
             "{ plugin = \"fine-tuning\", trainable = \"head\" }");
    const Scope within = inner(scope, name, in_quotes(name), &row);
    if (const auto* table = row.as_table())
      resolved.insert(name, metrics(*table, within));
    else
      report(within.header, fmt::format("{} must be a table, got {}", in_quotes(name), found(row)),
             fmt::format("write {}.METRIC = {{ minimum = ..., maximum = ... }}", in_quotes(name)));
  }
  return resolved;
}

toml::table Checker::dataset(const catalog::Manifest& plugin, const toml::table& given) {
  const Scope scope{"dataset `" + plugin.name + '`', {}, {}};
  unknown_keys(given, plugin.parameters, scope, {}, &plugin);
  toml::table resolved = keys(given, plugin.parameters, scope);
  resolved.insert("plugin", plugin.name);
  return resolved;
}

bool is_folder_name(std::string_view text) {
  return !text.empty() && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

bool is_device(std::string_view text) {
  if (text == "auto" || text == "cpu" || text == "cuda") return true;
  if (!text.starts_with("cuda:")) return false;
  text.remove_prefix(5);
  return !text.empty() && text.size() <= 3 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// `mean` and `deviation` of [model].
void Checker::normalization(const toml::table& recipe, const toml::table& model, const Scope& top) {
  const auto* given = recipe["model"].as_table();
  if (given == nullptr) return;
  for (const auto& [key, other] :
       {std::pair("mean", "deviation"), std::pair("deviation", "mean")}) {
    const toml::node* node = given->get(key);
    if (node == nullptr) continue;
    const auto& place = place_of(*node, top);
    if (!given->contains(other))
      report(place, "`" + std::string(key) + "` is given, but `" + other + "` is not",
             "a normalization is (v / 255 - mean) / deviation");
    if (const auto* list = model[key].as_array(); list && list->size() != 1 && list->size() != 3)
      report(place, "`" + std::string(key) +
                        "` must have one number, or one for each of three "
                        "channels, got " +
                        std::to_string(list->size()));
    if (!given->contains("file"))
      report(place, "`" + std::string(key) + "` is given, but `file` is not",
             "a model that is trained here is normalized with the dataset's constants");
  }
}

toml::table Checker::recipe(const toml::table& given) {
  const Scope top{};
  scenario_ = given["scenario"].value_or(std::string("standalone"));
  const auto& own = sections().recipe;
  unknown_keys(given, own, top,
               {"dataset", "model", "attack", "defense", "compute", "expect", "matrix",
                adapts() ? "pretraining" : "dataset"},
               nullptr);
  toml::table resolved = keys(given, own, top);
  if (const auto name = resolved["name"].value<std::string>(); name && !is_folder_name(*name))
    report(
        place_of(*given.get("name"), top),
        "`name` is " + in_quotes(*name) + ", it must be made of letters, digits, `.`, `_` and `-`",
        "the run's folder gets this name");

  std::size_t index = own.size();
  if (adapts())
    resolved.insert(ordered_key("pretraining", index++),
                    toml::table{{"dataset", pretraining_dataset(given, top)}});
  resolved.insert(
      ordered_key("dataset", index++),
      plugin_section(catalog::Kind::dataset, given, "augmentation", sections().augmentation, top));
  toml::table model = host_section(given, "model", sections().model, top);
  normalization(given, model, top);
  architecture_ = model["architecture"].value_or(std::string());
  const auto* network = schema::find_architecture(architecture_);
  const auto* chosen = given["model"]["architecture"].node();
  if (network != nullptr && adapts() && !network->replaceable_head)
    report(chosen != nullptr ? place_of(*chosen, top) : top.header,
           "scenario " + in_quotes(scenario_) + " replaces the head of the model, and " +
               in_quotes(architecture_) + " has none that can be replaced",
           "choose another [model] architecture");
  resolved.insert(ordered_key("model", index++), std::move(model));
  resolved.insert(
      ordered_key("attack", index++),
      plugin_section(catalog::Kind::attack, given, "training", sections().training, top));
  if (const auto* attack = given["attack"].as_table();
      attack != nullptr && attack->contains("file") && !given["model"]["file"])
    report(place_of(*attack->get("file"), top), "`attack.file` is given, `model.file` is not",
           "both come from one run: models/no-defense.safetensors is the model");
  resolved.insert(ordered_key("defense", index++), defenses(given, top));
  toml::table compute = host_section(given, "compute", sections().compute, top);
  if (const auto device = compute["device"].value<std::string>(); device && !is_device(*device))
    report(place_of(*given["compute"]["device"].node(), top),
           "`device` is " + in_quotes(*device) +
               ", it must be \"auto\", \"cpu\", \"cuda\" or \"cuda:\" and a number");
  resolved.insert(ordered_key("compute", index++), std::move(compute));
  if (toml::table expect = expectations(given, top); !expect.empty())
    resolved.insert(ordered_key("expect", index++), std::move(expect));
  return resolved;
}

}  // namespace

Diagnostic diagnostic_at(const toml::source_region& region, const std::string& file,
                         Problem problem) {
  Diagnostic made;
  made.message = std::move(problem.message);
  made.hint = std::move(problem.hint);
  made.file = region.path ? *region.path : file;
  if (made.file.starts_with(kOverrideLabel)) return made;  // is its own excerpt
  made.line = region.begin.line;
  made.column = region.begin.column;
  if (region.end.line == region.begin.line && region.end.column > region.begin.column)
    made.length = region.end.column - region.begin.column;
  return made;
}

toml::table resolve(const toml::table& recipe, const Changes& changes, const std::string& file,
                    const catalog::Catalog& catalog, std::vector<Diagnostic>& diagnostics) {
  return Checker(changes, file, catalog, diagnostics).recipe(recipe);
}

toml::table resolve_dataset(const catalog::Manifest& plugin, const toml::table& given,
                            const Changes& changes, const catalog::Catalog& catalog,
                            std::vector<Diagnostic>& diagnostics) {
  const std::string no_file;
  return Checker(changes, no_file, catalog, diagnostics).dataset(plugin, given);
}

}  // namespace backstop::recipe
