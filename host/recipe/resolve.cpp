#include "host/recipe/resolve.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "host/base/cores.hpp"
#include "host/base/text.hpp"
#include "host/recipe/recipe.hpp"
#include "host/recipe/row_name.hpp"
#include "host/report/audit.hpp"
#include "host/report/metrics.hpp"
#include "host/schema/architectures.hpp"
#include "host/schema/check_value.hpp"
#include "host/schema/optimizer.hpp"
#include "host/schema/sections.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::recipe {
namespace {

using base::list_of;
using base::ticked;
using schema::in_quotes;
using schema::mismatch;
using schema::Parameters;
using schema::sections;
using schema::value_text;

/// The table being checked.
struct Scope {
  std::string label;           ///< "[attack]", "scheduler `cosine`"; empty outside every table
  Path path;                   ///< as in --set
  toml::source_region header;  ///< where something missing is reported
};

std::string with_article(catalog::Kind kind) {
  return fmt::format("{} {}", kind == catalog::Kind::attack ? "an" : "a", to_string(kind));
}

bool declares(const catalog::Manifest& plugin, std::string_view key) {
  return std::any_of(plugin.parameters.begin(), plugin.parameters.end(),
                     [&](const schema::Parameter& parameter) { return parameter.key == key; });
}

bool is_clean_data_key(std::string_view key) {
  return key == "clean_images" || key == "clean_fraction";
}

struct TooManyProblems {};

/// Most [[defense]]s of a recipe, and most [[detector]]s.
constexpr std::size_t kMostEntries = 256;
/// A recipe may have been written for a larger machine, but nobody means many threads for each
/// processor, which take turns and hardly get on.
constexpr std::int64_t kMostThreadsPerProcessor = 16;

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
    if (diagnostics_.size() >= kMostProblems) throw TooManyProblems();
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

  toml::array value(const toml::node& node, const schema::Parameter& parameter, const Scope& scope);
  void path(const toml::node& node, const std::string& name, bool must_exist, const Scope& scope);
  toml::table scheduler(const toml::table& given, const toml::table* defaults, Scope scope);
  toml::table optimizer(const toml::table& given, const toml::table* defaults, Scope scope);

  const catalog::PluginEntry* plugin(catalog::Kind kind, const toml::node* name,
                                     const Scope& scope);
  void needs_of_model(const catalog::Manifest& manifest, const toml::source_region& region);
  void warn_of_shadowing(const catalog::PluginEntry& entry, const toml::source_region& region);
  void warn_of_unknown_keys(const catalog::PluginEntry& entry, const toml::source_region& region);
  toml::table host_section(const toml::table& parent, const std::string& key,
                           const Parameters& parameters, const Scope& outer);
  toml::table model(const toml::table& recipe, const Scope& top);
  toml::table audit(const toml::table& recipe, const Scope& top);
  toml::table plugin_section(catalog::Kind kind, const toml::table& recipe,
                             const std::string& subsection, Parameters inside, const Scope& top);
  /// Whether the scenario adapts a model that was trained on another dataset.
  [[nodiscard]] bool adapts() const { return scenario_ == "transfer" || scenario_ == "encoder"; }
  toml::table pretraining_dataset(const toml::table& recipe, const Scope& top);
  Parameters dataset_keys(const toml::table& given, const catalog::Manifest* plugin,
                          const Scope& scope) const;
  void chosen_classes(const toml::table& given, const toml::table& resolved, const Scope& scope);
  void normalization(const toml::table& recipe, const toml::table& model, const Scope& top);
  void threads(std::int64_t count, const toml::source_region& place);
  using Entry = toml::table (Checker::*)(const toml::table& given, const Scope& scope);
  toml::array entries(const toml::table& recipe, const std::string& kind, Entry check,
                      const Scope& top);
  toml::table defense(const toml::table& given, const Scope& scope);
  toml::table detector(const toml::table& given, const Scope& scope);
  void clean_data(const toml::table& given, const catalog::PluginEntry* entry,
                  Parameters& parameters, const Scope& scope);
  void name_row(const std::string& kind, const toml::table& given, toml::table& resolved,
                const Scope& scope);
  void add_row(const std::string& name, const toml::source_region& place);
  toml::table expectations(const toml::table& recipe, const Scope& top);
  toml::table metrics(const toml::table& given, const Scope& scope);
  toml::table bounds(const toml::table& given, const Parameters& parameters, const Scope& scope);
  toml::table verdict(const std::string& detector, const toml::table& given, const Scope& scope);
  toml::table plugin_metrics(const toml::node& given, const Scope& scope);

  const Changes& changes_;
  const std::string& file_;
  const catalog::Catalog& catalog_;
  std::vector<Diagnostic>& diagnostics_;
  std::string architecture_;  ///< of [model]
  std::string scenario_;
  std::string device_;                          ///< of [compute]
  bool attacked_ = false;                       ///< whether there is an [attack]
  bool audited_ = false;                        ///< whether there is an [audit]
  std::vector<std::string> rows_{kUndefended};  ///< what [expect] may name
  /// and those of it that are detectors, with what they say of themselves (null: unknown)
  std::map<std::string, const catalog::Manifest*> detectors_;
  std::map<std::string, std::string> files_;  ///< the defenses' names by their files'
  std::set<const catalog::PluginEntry*> shadowing_, unknown_keys_;  ///< those that were warned of
};

/// `region` where it is a place in the recipe or in an override; the table's header for a
/// manifest's default, which has no such place.
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
  Scope inside{std::move(label), scope.path, node ? place_of(*node, scope) : scope.header};
  inside.path.push_back(key);
  return inside;
}

/// A key of a resolved table; its position is its place among its table's keys.
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
      report(place, fmt::format("dropped `{}`: {} `{}` has no such parameter", name,
                                to_string(plugin->kind), plugin->name))
          .severity = Diagnostic::Severity::warning;
      continue;
    }
    if (plugin && plugin->kind == catalog::Kind::defense && is_clean_data_key(name)) {
      report(place,
             fmt::format("`{}` is given, but defense `{}` takes no clean data", name, plugin->name),
             "leave it out");
      continue;
    }
    auto [message, hint] = schema::unknown_key(name, scope.label, known);
    report(place, std::move(message), std::move(hint));
  }
}

toml::table Checker::keys(const toml::table& given, const Parameters& parameters,
                          const Scope& scope, const toml::table* defaults) {
  toml::table resolved;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const schema::Parameter& parameter = parameters[i];
    const toml::node* node = given.get(parameter.key);
    if (!node && defaults) node = defaults->get(parameter.key);
    if (!node && !parameter.default_value.empty()) node = parameter.default_value.get(0);
    if (!node) {
      if (!parameter.optional)
        report(scope.header, fmt::format("`{}` is missing{}{}", parameter.key,
                                         scope.label.empty() ? "" : " in ", scope.label));
      continue;
    }
    toml::array checked = value(*node, parameter, scope);
    if (!checked.empty())
      resolved.insert(ordered_key(parameter.key, i), std::move(*checked.get(0)));
  }
  return resolved;
}

/// One element, the value with every default spelled out; none after reporting what is wrong.
toml::array Checker::value(const toml::node& node, const schema::Parameter& parameter,
                           const Scope& scope) {
  const bool scheduled = parameter.type == schema::ParameterType::scheduler;
  const bool optimized = parameter.type == schema::ParameterType::optimizer;
  if (const auto* table = node.as_table(); table && (scheduled || optimized)) {
    const auto* defaults = parameter.default_value.get_as<toml::table>(0);
    Scope inside = inner(scope, parameter.key, ticked(parameter.key), table);
    return toml::array{scheduled ? scheduler(*table, defaults, std::move(inside))
                                 : optimizer(*table, defaults, std::move(inside))};
  }
  toml::array checked = schema::check_value(
      node, parameter, parameter.key, [&](const toml::node& at, schema::Problem problem) {
        report(place_of(at, scope), std::move(problem.message), std::move(problem.hint));
      });
  if (parameter.type != schema::ParameterType::path || checked.empty()) return checked;
  const auto* paths = node.as_array();
  if (!paths) path(node, parameter.key, parameter.must_exist, scope);
  for (std::size_t i = 0; paths && i < paths->size(); ++i)
    path((*paths)[i], fmt::format("{}.{}", parameter.key, i), parameter.must_exist, scope);
  return checked;
}

/// Opening a FIFO waits for its writer, and a device may never end: no plugin should get either.
void Checker::path(const toml::node& node, const std::string& name, bool must_exist,
                   const Scope& scope) {
  const std::filesystem::path path = node.ref<std::string>();
  if (path.native().find('\0') != std::string::npos) {
    report(place_of(node, scope),
           fmt::format("`{}` must not contain a NUL, got {}", name, schema::short_text(node)));
    return;
  }
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (std::filesystem::is_regular_file(status) || std::filesystem::is_directory(status)) return;
  if (std::filesystem::exists(status)) {
    report(place_of(node, scope),
           fmt::format("`{}` is {}, which is neither a file nor a folder", name, value_text(node)))
        .environment = true;
    return;
  }
  if (!must_exist) return;
  std::string hint;
  if (path.is_relative())
    hint = fmt::format("relative paths start from the folder that the command is run in, {}",
                       std::filesystem::current_path(error).string());
  report(place_of(node, scope),
         fmt::format("`{}` is {}, which does not exist", name, value_text(node)), std::move(hint))
      .environment = true;
}

const catalog::PluginEntry* Checker::plugin(catalog::Kind kind, const toml::node* name,
                                            const Scope& scope) {
  if (!name || !name->is_string()) return nullptr;  // reported as missing or of a wrong type
  const std::string& wanted = name->as_string()->get();
  const auto& region = place_of(*name, scope);
  if (const auto* entry = catalog_.find(kind, wanted)) {
    warn_of_shadowing(*entry, region);
    warn_of_unknown_keys(*entry, region);
    if (entry->manifest.asks_for("cuda") && device_ == "cpu")
      report(region,
             fmt::format("{} `{}` needs a GPU, but `device` is \"cpu\"", to_string(kind), wanted),
             "choose another `device` in [compute], or another plugin");
    return entry;
  }

  const std::string what(to_string(kind));
  const catalog::PluginEntry* refused = nullptr;
  const catalog::PluginEntry* other = nullptr;
  for (const auto& entry : catalog_.entries()) {
    if (entry.manifest.name != wanted) continue;
    // If the manifest could not be read, the kind of the file is unknown.
    if (entry.refusal && (entry.manifest.kind == kind || entry.manifest.version.empty()))
      refused = refused ? refused : &entry;
    if (!entry.refusal) other = &entry;
  }
  if (refused) {
    report(region,
           fmt::format("{} `{}` cannot be used: {}: {}", what, wanted, refused->path.string(),
                       refused->refusal->message),
           refused->refusal->hint)
        .plugin = true;
    return nullptr;
  }
  const auto names = catalog_.names(kind);
  const std::string known =
      names.empty()
          ? fmt::format("no {}s were found; --plugin-path names more folders to search", what)
          : fmt::format("known {}s: {}", what, list_of(names, ticked));
  if (other)
    report(region,
           fmt::format("`{}` is {}, not {}", wanted, with_article(other->manifest.kind),
                       with_article(kind)),
           known);
  else
    report(region, fmt::format("there is no {} `{}`", what, wanted),
           catalog_.hint_for_unknown(kind, wanted, known));
  return nullptr;
}

/// A plugin of a newer SDK may say what this host does not know.
void Checker::warn_of_unknown_keys(const catalog::PluginEntry& entry,
                                   const toml::source_region& region) {
  if (entry.manifest.unknown_keys.empty() || !unknown_keys_.insert(&entry).second) return;
  report(region,
         fmt::format("{} `{}` was built with SDK {}, and this program, which knows {}, ignores {} "
                     "in its manifest",
                     to_string(entry.manifest.kind), entry.manifest.name, entry.facts->sdk,
                     catalog::own_build_facts().sdk, list_of(entry.manifest.unknown_keys, ticked)),
         "upgrade backstop if the plugin does not do what it should")
      .severity = Diagnostic::Severity::warning;
}

/// Readers of the recipe expect the plugin that comes with the program.
void Checker::warn_of_shadowing(const catalog::PluginEntry& entry,
                                const toml::source_region& region) {
  const catalog::PluginEntry* shadowed = catalog_.shadowed_by(entry);
  if (!shadowed) return;
  if (!shadowing_.insert(&entry).second) return;
  const std::string message = fmt::format(
      "{} `{}` is {}, not the {} {}", to_string(entry.manifest.kind), entry.manifest.name,
      entry.path.string(), shadowed->built_in ? "built-in" : "later", shadowed->path.string());
  report(region, message, "remove or rename the former to use the latter").severity =
      Diagnostic::Severity::warning;
}

toml::table Checker::scheduler(const toml::table& given, const toml::table* defaults, Scope scope) {
  // `scheduler = { rate = 0.1 }` only changes the rate of the default scheduler.
  if (given.contains("plugin")) defaults = nullptr;
  const auto* name = given.get("plugin");
  if (!name && defaults) name = defaults->get("plugin");
  Parameters parameters = sections().scheduler;
  if (const auto* entry = plugin(catalog::Kind::scheduler, name, scope)) {
    const auto& own = entry->manifest.parameters;
    parameters.insert(parameters.end(), own.begin(), own.end());
    scope.label = fmt::format("scheduler `{}`", entry->manifest.name);
    unknown_keys(given, parameters, scope, {}, &entry->manifest);
  }
  return keys(given, parameters, scope, defaults);
}

toml::table Checker::optimizer(const toml::table& given, const toml::table* defaults, Scope scope) {
  if (given.contains("name")) defaults = nullptr;
  const auto* node = given.get("name");
  if (!node && defaults) node = defaults->get("name");
  const auto& known = schema::optimizer_name().choices;
  const std::string name = node ? node->value_or(std::string()) : known.front();
  const Parameters parameters = schema::optimizer_parameters(name);
  if (std::find(known.begin(), known.end(), name) != known.end()) {
    scope.label = fmt::format("optimizer `{}`", name);
    unknown_keys(given, parameters, scope, {}, nullptr);
  }
  toml::table resolved = keys(given, parameters, scope, defaults);
  if (resolved["nesterov"].value_or(false) && resolved["momentum"].value_or(1.0) == 0.0)
    report(scope.header, "`nesterov` needs momentum, but `momentum` is 0.0",
           "set `momentum`, or leave out `nesterov`");
  return resolved;
}

/// "[dataset.augmentation]"
std::string table_label(const Path& outer, const std::string& key) {
  std::string label = "[";
  for (const auto& part : outer) label += part + '.';
  return label + key + ']';
}

/// A table that has only keys of the host; when it is left out, all have their defaults.
toml::table Checker::host_section(const toml::table& parent, const std::string& key,
                                  const Parameters& parameters, const Scope& outer) {
  static const toml::table kEmpty;
  const auto* node = parent.get(key);
  const Scope scope = inner(outer, key, table_label(outer.path, key), node);
  if (node && !node->is_table()) {
    report(scope.header, mismatch(key, "a table", *node), fmt::format("write {}", scope.label));
    return {};
  }
  const auto& given = node ? *node->as_table() : kEmpty;
  unknown_keys(given, parameters, scope, {}, nullptr);
  return keys(given, parameters, scope);
}

/// The host's keys of [dataset], except those that the plugin declares itself.
Parameters Checker::dataset_keys(const toml::table& given, const catalog::Manifest* plugin,
                                 const Scope& scope) const {
  Parameters keys = sections().dataset;
  std::erase_if(keys,
                [&](const schema::Parameter& key) { return plugin && declares(*plugin, key.key); });
  const auto* classes = given.get("classes");
  if (!classes) return keys;
  const auto* array = classes->as_array();
  const auto* first = array && !array->empty() ? array->get(0) : classes;
  for (auto& key : keys)  // labels or names: the first one decides
    if (key.key == "classes" && first->is_integer()) key.type = schema::ParameterType::integer;
  // A number belongs to the plugin that was replaced: dropped like its other keys.
  if (!array && changes_.swapped.count(scope.path) > 0)
    std::erase_if(keys, [](const schema::Parameter& key) { return key.key == "classes"; });
  return keys;
}

void Checker::chosen_classes(const toml::table& given, const toml::table& resolved,
                             const Scope& scope) {
  const auto* classes = resolved["classes"].as_array();
  if (!classes) return;
  const auto& place = place_of(*given.get("classes"), scope);
  if (classes->size() < 2)
    report(place, fmt::format("`classes` must list at least 2 classes, got {}", classes->size()),
           "leave it out to use all classes");
  std::set<std::string> seen;
  for (const auto& element : *classes) {
    const std::string text = value_text(element);
    if (!seen.insert(text).second) report(place, fmt::format("`classes` lists {} twice", text));
  }
}

/// The manifest's padding for the size that the recipe resizes images to; none where that is the
/// size of the first image, which nobody knows before the images are read.
void default_crop_padding(schema::Parameter& parameter, const catalog::Manifest& manifest,
                          const toml::table& dataset) {
  const auto size = dataset["image_size"].value<std::int64_t>();
  parameter.default_value.clear();
  if (size && *size == 0)
    parameter.optional = true;
  else
    parameter.default_value.push_back(size ? manifest.crop_padding_for(*size)
                                           : manifest.crop_padding);
}

/// [dataset], [pretraining.dataset] and [attack]: the host's keys, the plugin's, and `subsection`,
/// a table of the host.
toml::table Checker::plugin_section(catalog::Kind kind, const toml::table& recipe,
                                    const std::string& subsection, Parameters inside,
                                    const Scope& top) {
  const std::string name(to_string(kind));
  const auto* node = recipe.get(name);
  const Scope scope = inner(top, name, table_label(top.path, name), node);
  if (!node || !node->is_table()) {
    report(scope.header,
           node ? mismatch(name, "a table", *node) : fmt::format("{} is missing", scope.label),
           fmt::format("write {} with a `plugin`{}", scope.label,
                       kind == catalog::Kind::attack
                           ? " (`none` trains a clean model), or name a model with [model] `file`"
                           : ""));
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
      if (parameter.key == "crop_padding") default_crop_padding(parameter, manifest, resolved);
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
    if (manifest.asks_for(trait.need) && !(architecture->*trait.offered))
      report(region,
             fmt::format("defense `{}` needs {}, which a model of architecture {} does not offer",
                         manifest.name, trait.text, in_quotes(architecture_)),
             "choose another defense, or another [model] architecture");
  }
}

/// `clean_images` and `clean_fraction`, and the plugin's parameters.
void Checker::clean_data(const toml::table& given, const catalog::PluginEntry* entry,
                         Parameters& parameters, const Scope& scope) {
  if (!entry || entry->manifest.asks_for("clean-data")) {
    const auto* images = given.get("clean_images");
    const bool fraction = given.contains("clean_fraction");
    if (images && fraction)
      report(place_of(*images, scope), "`clean_images` and `clean_fraction` are both given",
             "leave out one of them");
    if (images) parameters.push_back(sections().clean_images);
    if (fraction || !images) parameters.push_back(sections().clean_fraction);
  }
  if (!entry) return;
  const auto& manifest = entry->manifest;
  parameters.insert(parameters.end(), manifest.parameters.begin(), manifest.parameters.end());
  if (manifest.asks_for("clean-data"))
    unknown_keys(given, parameters, scope, {"clean_images", "clean_fraction"}, &manifest);
  else
    unknown_keys(given, parameters, scope, {}, &manifest);
}

void Checker::name_row(const std::string& kind, const toml::table& given, toml::table& resolved,
                       const Scope& scope) {
  const auto* node = given.contains("name") ? given.get("name") : given.get("plugin");
  const auto* name = node ? node->as_string() : nullptr;
  if (!name) return;
  const std::string& text = name->get();
  const auto& place = place_of(*node, scope);
  if (auto problem = problem_of_name(text))
    report(place, std::move(*problem), "it names a row of the tables, and files");
  else if (text == rows_.front())
    report(place, fmt::format("a {} cannot be called \"no defense\"", kind),
           "that is the row of the backdoored model itself; choose another `name`");
  else if (const auto row = files_.find(file_name_of(text));
           row != files_.end() && row->second == text)
    report(
        place,
        fmt::format("two {} are called {}",
                    detectors_.empty() && kind == "defense" ? "defenses" : "rows", in_quotes(text)),
        "give one of them another `name`");
  else
    add_row(text, place);
  resolved.insert(ordered_key("name", 0), text);
}

toml::table Checker::defense(const toml::table& given, const Scope& scope) {
  Parameters parameters = sections().defense;
  const auto* entry = plugin(catalog::Kind::defense, given.get("plugin"), scope);
  if (entry) {
    const auto& manifest = entry->manifest;
    const auto& place = place_of(*given.get("plugin"), scope);
    needs_of_model(manifest, place);
    if (!manifest.repairs)
      report(place, fmt::format("`{}` only detects backdoors", manifest.name),
             "name it in [[detector]]");
    if (manifest.asks_for("training-data") && adapts())
      report(place,
             fmt::format("defense `{}` needs the poisoned training set, which is not available to "
                         "whoever adapts a model",
                         manifest.name),
             "it is available in the scenario \"standalone\"");
    else if (manifest.asks_for("training-data") && !attacked_)
      report(place,
             fmt::format("defense `{}` needs the poisoned training set, which nobody has for a "
                         "model from elsewhere",
                         manifest.name),
             "choose another defense, or give the [attack] with its `file`");
  }
  clean_data(given, entry, parameters, scope);
  toml::table resolved = keys(given, parameters, scope);
  name_row("defense", given, resolved, scope);
  return resolved;
}

toml::table Checker::detector(const toml::table& given, const Scope& scope) {
  Parameters parameters = sections().detector;
  const auto* entry = plugin(catalog::Kind::defense, given.get("plugin"), scope);
  if (entry) {
    const auto& place = place_of(*given.get("plugin"), scope);
    needs_of_model(entry->manifest, place);
    if (adapts())
      report(place, "a detector judges a model on its own classes, but this scenario adapts it",
             "detectors are for the scenario \"standalone\"");
    const auto& manifest = entry->manifest;
    if (manifest.detects.empty())
      report(place, fmt::format("defense `{}` detects nothing", manifest.name),
             "`backstop list defenses` shows which ones do");
    else if (!attacked_ && !manifest.judges_models())
      report(
          place,
          fmt::format("`{}` scores images, but without an [attack] nobody knows the trigger that "
                      "it should find",
                      manifest.name),
          "give the [attack], with its `file` if the model is from a file");
    if (manifest.scores_inputs()) parameters.push_back(sections().test_images);
  }
  clean_data(given, entry, parameters, scope);
  toml::table resolved = keys(given, parameters, scope);
  name_row("detector", given, resolved, scope);
  if (const auto name = resolved["name"].value<std::string>())
    detectors_.emplace(*name, entry == nullptr ? nullptr : &entry->manifest);
  return resolved;
}

/// Two rows must not share a file in the run's folder, either.
void Checker::add_row(const std::string& name, const toml::source_region& place) {
  const std::string file = file_name_of(name);
  const std::string undefended = file_name_of(kUndefended);
  if (file == undefended || file == undefended + ".attack")
    report(place,
           fmt::format("{} and \"no defense\" would share the file models/{}.safetensors",
                       in_quotes(name), file),
           "give the defense another `name`");
  if (const auto [row, added] = files_.emplace(file, name); !added)
    report(place,
           fmt::format("{} and {} would share the file models/{}.safetensors", in_quotes(name),
                       in_quotes(row->second), file),
           "spaces and signs become dashes in file names; give one of them another `name`");
  rows_.push_back(name);
}

/// [audit] and its tables, each with its defaults where it is left out.
toml::table Checker::audit(const toml::table& recipe, const Scope& top) {
  static const toml::table kEmpty;
  const toml::node& node = *recipe.get("audit");
  const Scope scope = inner(top, "audit", "[audit]", &node);
  if (!node.is_table()) report(scope.header, mismatch("audit", "a table", node), "write [audit]");
  if (scenario_ != "standalone")
    report(scope.header,
           fmt::format("[audit] is given, but the scenario is {}", in_quotes(scenario_)),
           "an audit is for the scenario \"standalone\"");
  const auto attack = recipe["attack"]["plugin"].value<std::string>();
  const auto* entry = attack ? catalog_.find(catalog::Kind::attack, *attack) : nullptr;
  if (!attacked_)
    report(scope.header, "[audit] is given, but there is no [attack], and nobody knows the trigger",
           "leave out [audit], or give the [attack] with its `file`");
  else if (entry && !entry->manifest.poisons)
    report(scope.header,
           fmt::format("[audit] is given, but attack `{}` poisons nothing", entry->manifest.name),
           "leave out [audit], or choose an attack that poisons");
  const toml::table& given = node.is_table() ? *node.as_table() : kEmpty;
  const Parameters& own = sections().audit;
  const auto& parts = sections().audit_parts;
  Parameters known = own;
  for (const auto& [name, part] : parts) known.push_back({.key = name});
  unknown_keys(given, known, scope, {}, nullptr);
  toml::table resolved = keys(given, own, scope);
  std::size_t index = own.size();
  bool enabled = false;
  for (const auto& [name, part] : parts) {
    toml::table table = host_section(given, name, part, scope);
    enabled = enabled || table["enabled"].value_or(true);
    resolved.insert(ordered_key(name, index++), std::move(table));
  }
  if (!enabled)
    report(scope.header, "[audit] is given, but all of its parts are switched off",
           "leave out [audit], or `enabled = false` of one of them");
  return resolved;
}

toml::array Checker::entries(const toml::table& recipe, const std::string& kind, Entry check,
                             const Scope& top) {
  toml::array resolved;
  const auto* node = recipe.get(kind);
  if (!node) return resolved;
  const std::string label = fmt::format("[[{}]]", kind);
  const Scope all = inner(top, kind, label, node);
  const auto wrong = [&](const toml::node& given) {
    report(place_of(given, all), mismatch(kind, "an array of tables", given),
           fmt::format("write {} once for each {}", label, kind));
  };
  const auto* array = node->as_array();
  if (!array) {
    wrong(*node);
    return resolved;
  }
  if (array->size() > kMostEntries) {
    report(
        place_of(*array, all),
        fmt::format("there are {} {}s; at most {} are allowed", array->size(), kind, kMostEntries),
        "split the recipe into several");
    return resolved;
  }
  std::size_t index = 0;
  for (const auto& element : *array) {
    if (const auto* table = element.as_table())
      resolved.push_back((this->*check)(*table, inner(all, std::to_string(index), label, table)));
    else
      wrong(*array);
    ++index;
  }
  return resolved;
}

toml::table Checker::bounds(const toml::table& given, const Parameters& parameters,
                            const Scope& scope) {
  if (given.empty())
    report(scope.header, fmt::format("{} has neither `minimum` nor `maximum`", scope.label),
           "give one of them, or both");
  unknown_keys(given, parameters, scope, {}, nullptr);
  toml::table resolved = keys(given, parameters, scope);
  const auto minimum = resolved["minimum"].value<double>();
  const auto maximum = resolved["maximum"].value<double>();
  if (minimum && maximum && *minimum > *maximum)
    report(place_of(*given.get("minimum"), scope),
           fmt::format("`minimum` must not be greater than `maximum` ({}), got {}", *maximum,
                       *minimum));
  return resolved;
}

toml::table Checker::metrics(const toml::table& given, const Scope& scope) {
  std::vector<std::string> known;
  for (const report::Metric* metric : report::expectable_metrics(scenario_))
    known.emplace_back(metric->key);
  if (audited_)
    for (const report::Metric& metric : report::audit_metrics()) known.emplace_back(metric.key);
  const std::string hint =
      fmt::format("metrics: {}; what its plugin records is `extra.METRIC`", list_of(known, ticked));
  if (given.empty()) report(scope.header, fmt::format("{} has no metric", scope.label), hint);
  toml::table resolved;
  for (const auto& [key, node] : given) {
    const std::string name(key.str());
    if (name == "extra") {
      resolved.insert(name, plugin_metrics(node, inner(scope, name, ticked(name), &node)));
      continue;
    }
    const report::Metric* metric = report::find_metric(name);
    if (metric == nullptr) metric = report::find_audit_metric(name);
    if (metric == nullptr || !metric->in_expect) {
      const auto near = base::nearest(name, known);
      report(key.source(), fmt::format("there is no metric `{}`", name),
             near ? fmt::format("did you mean `{}`?", *near) : hint);
      continue;
    }
    if (report::find_audit_metric(name) != nullptr && !audited_)
      report(key.source(), fmt::format("`{}` is given, but there is no [audit]", name),
             "write [audit], which has a default for every key");
    else if (metric->of_backdoor && !attacked_)
      report(key.source(),
             fmt::format("`{}` is given, but there is no [attack], and nobody knows the trigger",
                         name),
             "without an [attack] only `clean_accuracy` and `clean_accuracy_drop` are measured");
    else if (std::find(known.begin(), known.end(), name) == known.end())
      report(key.source(),
             fmt::format("`{}` does not exist in the scenario {}: {}", name, in_quotes(scenario_),
                         metric->why_not),
             fmt::format("metrics: {}", list_of(known, ticked)));
    const Scope within = inner(scope, name, ticked(name), &node);
    const bool signed_metric = metric->range == report::Range::difference;
    if (const auto* table = node.as_table())
      resolved.insert(
          name, bounds(*table, signed_metric ? sections().difference : sections().share, within));
    else
      report(within.header, mismatch(name, "a table", node),
             "write { minimum = ..., maximum = ... }, or one of them");
  }
  return resolved;
}

/// Of metrics that a plugin records: no manifest names them, so the run says which are missing.
toml::table Checker::plugin_metrics(const toml::node& given, const Scope& scope) {
  toml::table resolved;
  const auto* all = given.as_table();
  if (all == nullptr || all->empty()) {
    report(scope.header, mismatch("extra", "a table of metrics that the plugin records", given),
           "write extra.METRIC = { minimum = ..., maximum = ... }");
    return resolved;
  }
  for (const auto& [key, node] : *all) {
    const std::string name(key.str());
    const Scope within = inner(scope, name, ticked(name), &node);
    if (const auto* table = node.as_table())
      resolved.insert(name, bounds(*table, sections().amount, within));
    else
      report(within.header, mismatch(name, "a table", node),
             "write { minimum = ..., maximum = ... }, or one of them");
  }
  return resolved;
}

/// What [expect] says of a detector.
toml::table Checker::verdict(const std::string& detector, const toml::table& given,
                             const Scope& scope) {
  static const Parameters kClasses = {{.key = "suspects", .list = true}};
  const catalog::Manifest* manifest = detectors_.at(detector);
  std::vector<std::string> known;
  if (manifest == nullptr || manifest->judges_models()) known = {"score", "suspects"};
  if (manifest == nullptr || manifest->scores_inputs())
    for (const report::Metric& metric : report::input_metrics()) known.emplace_back(metric.key);
  const std::string hint =
      fmt::format("metrics of {}: {}; what its plugin records is `extra.METRIC`",
                  in_quotes(detector), list_of(known, ticked));
  toml::table resolved;
  if (given.empty()) report(scope.header, fmt::format("{} has no metric", scope.label), hint);
  for (const auto& [key, node] : given) {
    const std::string name(key.str());
    const Scope within = inner(scope, name, ticked(name), &node);
    if (name == "extra") {
      resolved.insert(name, plugin_metrics(node, within));
    } else if (std::find(known.begin(), known.end(), name) == known.end()) {
      report(key.source(), fmt::format("there is no metric `{}` of a detector", name), hint);
    } else if (name == "suspects") {
      toml::array checked = value(node, kClasses.front(), within);
      if (!checked.empty()) resolved.insert(name, std::move(*checked.get(0)));
    } else if (const auto* table = node.as_table()) {
      resolved.insert(
          name, bounds(*table, name == "score" ? sections().amount : sections().share, within));
    } else {
      report(within.header, mismatch(name, "a table", node),
             "write { minimum = ..., maximum = ... }, or one of them");
    }
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
    report(scope.header, mismatch("expect", "a table", *node), "write [expect]");
    return resolved;
  }
  for (const auto& [key, row] : *given) {
    const std::string name(key.str());
    if (std::find(rows_.begin(), rows_.end(), name) == rows_.end()) {
      const auto near = base::nearest(base::shortened(name), rows_);
      report(key.source(),
             fmt::format("no defense{} is called {}", detectors_.empty() ? "" : " or detector",
                         in_quotes(name)),
             near ? fmt::format("did you mean {}?", in_quotes(*near))
                  : fmt::format("known rows: {}", list_of(rows_, in_quotes)));
    }
    if (scenario_ == "encoder" && name == rows_.front())
      report(key.source(), "\"no defense\" is an encoder, which has no classes to measure",
             "a defense that trains only the head shows what the backdoor does: "
             "{ plugin = \"fine-tuning\", trainable = \"head\" }");
    const Scope within = inner(scope, name, in_quotes(name), &row);
    if (const auto* table = row.as_table())
      resolved.insert(name, detectors_.contains(name) ? verdict(name, *table, within)
                                                      : metrics(*table, within));
    else
      report(within.header, mismatch(name, "a table", row),
             fmt::format("write {}.METRIC = {{ minimum = ..., maximum = ... }}", in_quotes(name)));
  }
  return resolved;
}

toml::table Checker::dataset(const catalog::Manifest& plugin, const toml::table& given) {
  const Scope scope{fmt::format("dataset `{}`", plugin.name), {}, {}};
  unknown_keys(given, plugin.parameters, scope, {}, &plugin);
  toml::table resolved = keys(given, plugin.parameters, scope);
  resolved.insert("plugin", plugin.name);
  return resolved;
}

bool is_folder_name(std::string_view text) {
  return !text.empty() && text.size() <= kLongestName && text.front() != '.' &&
         text.front() != '-' && std::all_of(text.begin(), text.end(), [](char c) {
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

void Checker::threads(std::int64_t count, const toml::source_region& place) {
  const std::int64_t here = base::available_cores();
  if (count <= here) return;
  std::string message =
      fmt::format("`threads` is {}, but only {} available", count,
                  here == 1 ? "1 processor is" : fmt::format("{} processors are", here));
  if (count > kMostThreadsPerProcessor * here)
    report(place, std::move(message),
           fmt::format("at most {} are allowed here; 0 means one for each processor",
                       kMostThreadsPerProcessor * here));
  else
    report(place, std::move(message),
           "it will be slow; 0 means one for each processor, but then the numbers may differ in "
           "their last digits")
        .severity = Diagnostic::Severity::warning;
}

/// [model]; with a file, architecture and width are as the recipe gives them or as the file is.
/// Without one, the width is by default that of the network's publication.
toml::table Checker::model(const toml::table& recipe, const Scope& top) {
  Parameters parameters = sections().model;
  const auto name = recipe["model"]["architecture"].value<std::string_view>();
  const auto* network = name ? schema::find_architecture(*name) : nullptr;
  for (auto& parameter : parameters) {
    if (parameter.key == "width" && network != nullptr)
      parameter.default_value = toml::array{network->width};
    if (recipe["model"]["file"] && (parameter.key == "architecture" || parameter.key == "width")) {
      parameter.default_value.clear();
      parameter.optional = true;
    }
  }
  return host_section(recipe, "model", parameters, top);
}

/// `mean`, `deviation` and `normalization` of [model].
void Checker::normalization(const toml::table& recipe, const toml::table& model, const Scope& top) {
  const auto* given = recipe["model"].as_table();
  if (given == nullptr) return;
  const auto report_no_file = [this](const toml::source_region& place, const char* key) {
    report(place, fmt::format("`{}` is given, but `file` is not", key),
           "a model that is trained here is normalized with the dataset's constants");
  };
  for (const auto& [key, other] :
       {std::pair("mean", "deviation"), std::pair("deviation", "mean")}) {
    const toml::node* node = given->get(key);
    if (node == nullptr) continue;
    const auto& place = place_of(*node, top);
    if (!given->contains(other))
      report(place, fmt::format("`{}` is given, but `{}` is not", key, other),
             "a normalization is (v / 255 - mean) / deviation");
    if (const auto* list = model[key].as_array(); list && list->size() != 1 && list->size() != 3)
      report(place,
             fmt::format("`{}` must have one number, or one for each of three channels, got {}",
                         key, list->size()));
    if (!given->contains("file")) report_no_file(place, key);
    if (given->contains("normalization"))
      report(place, fmt::format("`{}` and `normalization` are both given", key),
             "leave out one of them");
  }
  if (const auto* name = given->get("normalization"); name && !given->contains("file"))
    report_no_file(place_of(*name, top), "normalization");
}

toml::table Checker::recipe(const toml::table& given) {
  const Scope top{};
  scenario_ = given["scenario"].value_or(std::string("standalone"));
  device_ = given["compute"]["device"].value_or(std::string("auto"));
  const auto& own = sections().recipe;
  unknown_keys(given, own, top,
               {"dataset", "model", "attack", "detector", "defense", "audit", "compute", "expect",
                "matrix", adapts() ? "pretraining" : "dataset"},
               nullptr);
  toml::table resolved = keys(given, own, top);
  if (const auto name = resolved["name"].value<std::string>(); name && !is_folder_name(*name))
    report(place_of(*given.get("name"), top),
           fmt::format("`name` must be a folder name of at most {} letters, digits, `.`, `_` and "
                       "`-` that begins with neither `.` nor `-`, got {}",
                       kLongestName, in_quotes(base::shortened(*name))),
           "the run's folder is named after it");

  std::size_t index = own.size();
  // Without an attack, a model from elsewhere is taken as it is.
  const bool file = given["model"]["file"].node() != nullptr;
  attacked_ = given.contains("attack") || !file || scenario_ == "encoder";
  if (adapts() && (attacked_ || given.contains("pretraining")))
    resolved.insert(ordered_key("pretraining", index++),
                    toml::table{{"dataset", pretraining_dataset(given, top)}});
  resolved.insert(
      ordered_key("dataset", index++),
      plugin_section(catalog::Kind::dataset, given, "augmentation", sections().augmentation, top));
  toml::table model = this->model(given, top);
  normalization(given, model, top);
  architecture_ = model["architecture"].value_or(std::string());
  const auto* network = schema::find_architecture(architecture_);
  const auto* chosen = given["model"]["architecture"].node();
  if (network != nullptr && adapts() && !network->replaceable_head)
    report(chosen != nullptr ? place_of(*chosen, top) : top.header,
           fmt::format("scenario {} replaces the head of the model, but {} has no head that can be "
                       "replaced",
                       in_quotes(scenario_), in_quotes(architecture_)),
           "choose another [model] architecture");
  resolved.insert(ordered_key("model", index++), std::move(model));
  if (attacked_)
    resolved.insert(
        ordered_key("attack", index++),
        plugin_section(catalog::Kind::attack, given, "training", sections().training, top));
  if (const auto* attack = given["attack"].as_table();
      attack != nullptr && attack->contains("file") && !given["model"]["file"])
    report(place_of(*attack->get("file"), top), "`attack.file` is given, but `model.file` is not",
           "both come from the same run; its model is models/no-defense.safetensors");
  resolved.insert(ordered_key("detector", index++),
                  entries(given, "detector", &Checker::detector, top));
  resolved.insert(ordered_key("defense", index++),
                  entries(given, "defense", &Checker::defense, top));
  audited_ = given.contains("audit");
  if (audited_) resolved.insert(ordered_key("audit", index++), audit(given, top));
  toml::table compute = host_section(given, "compute", sections().compute, top);
  if (const auto device = compute["device"].value<std::string>(); device && !is_device(*device))
    report(place_of(*given["compute"]["device"].node(), top),
           fmt::format("`device` must be \"auto\", \"cpu\", \"cuda\" or \"cuda:N\", got {}",
                       in_quotes(*device)));
  if (const auto* node = given["compute"]["threads"].node())
    threads(compute["threads"].value_or(std::int64_t{0}), place_of(*node, top));
  resolved.insert(ordered_key("compute", index++), std::move(compute));
  if (toml::table expect = expectations(given, top); !expect.empty())
    resolved.insert(ordered_key("expect", index++), std::move(expect));
  return resolved;
}

toml::table stop_checking(std::vector<Diagnostic>& diagnostics, const std::string& file) {
  diagnostics.push_back(diagnostic_at(
      {}, file, {fmt::format("checking stopped after {} problems", kMostProblems), ""}));
  return {};
}

}  // namespace

Diagnostic diagnostic_at(const toml::source_region& region, const std::string& file,
                         schema::Problem problem) {
  constexpr std::size_t kLongest = 2000;  // bytes: keys and names may be of any length
  Diagnostic diagnostic;
  diagnostic.message = base::shortened(problem.message, kLongest);
  diagnostic.hint = base::shortened(problem.hint, kLongest);
  diagnostic.file = region.path ? *region.path : file;
  if (diagnostic.file.starts_with(kOverrideLabel)) return diagnostic;  // is its own excerpt
  diagnostic.line = region.begin.line;
  diagnostic.column = region.begin.column;
  if (region.end.line == region.begin.line && region.end.column > region.begin.column)
    diagnostic.length = region.end.column - region.begin.column;
  return diagnostic;
}

toml::table resolve(const toml::table& recipe, const Changes& changes, const std::string& file,
                    const catalog::Catalog& catalog, std::vector<Diagnostic>& diagnostics) {
  try {
    return Checker(changes, file, catalog, diagnostics).recipe(recipe);
  } catch (const TooManyProblems&) {
    return stop_checking(diagnostics, file);
  }
}

toml::table resolve_dataset(const catalog::Manifest& plugin, const toml::table& given,
                            const Changes& changes, const catalog::Catalog& catalog,
                            std::vector<Diagnostic>& diagnostics) {
  const std::string no_file;
  try {
    return Checker(changes, no_file, catalog, diagnostics).dataset(plugin, given);
  } catch (const TooManyProblems&) {
    return stop_checking(diagnostics, no_file);
  }
}

}  // namespace backstop::recipe
