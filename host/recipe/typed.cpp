#include "host/recipe/typed.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "host/schema/normalizations.hpp"

namespace backstop::recipe {
namespace {

using catalog::Kind;

const toml::table& table_in(const toml::table& table, std::string_view key) {
  return *table.get(key)->as_table();
}

template <typename T>
T get(const toml::table& table, std::string_view key) {
  return *table[key].value<T>();
}

bool declares(const catalog::PluginEntry& plugin, std::string_view key) {
  const auto& parameters = plugin.manifest.parameters;
  return std::any_of(parameters.begin(), parameters.end(),
                     [&](const auto& parameter) { return parameter.key == key; });
}

/// The plugin that `table` names.
PluginUse named_plugin(Kind kind, const toml::table& table, const catalog::Catalog& catalog) {
  return plugin_use(catalog.require(kind, get<std::string>(table, "plugin")), table, catalog);
}

template <typename T>
std::vector<T> list(const toml::table& table, std::string_view key) {
  std::vector<T> values;
  if (const auto* array = table[key].as_array())
    for (const auto& node : *array)
      if (const auto value = node.value<T>()) values.push_back(*value);
  return values;
}

DatasetUse dataset_use(const toml::table& table, const catalog::Catalog& catalog) {
  DatasetUse dataset;
  dataset.use = named_plugin(Kind::dataset, table, catalog);
  const auto integer = [&](const char* key) {
    return declares(*dataset.use.plugin, key) ? 0 : table[key].value_or(std::int64_t{0});
  };
  dataset.image_size = integer("image_size");
  dataset.per_class = integer("per_class");
  dataset.limit = integer("limit");
  dataset.test_limit = integer("test_limit");
  if (!declares(*dataset.use.plugin, "classes")) {
    const auto* classes = table["classes"].as_array();
    if (classes != nullptr && classes->is_homogeneous<std::string>())
      dataset.class_names = list<std::string>(table, "classes");
    else
      dataset.class_labels = list<std::int64_t>(table, "classes");
  }
  const toml::table& augmentation = table_in(table, "augmentation");
  dataset.crop_padding = augmentation["crop_padding"].value<std::int64_t>();
  dataset.horizontal_flip = get<bool>(augmentation, "horizontal_flip");
  return dataset;
}

TrainingUse training_use(const toml::table& table, const catalog::Catalog& catalog) {
  return {get<std::int64_t>(table, "epochs"), get<std::int64_t>(table, "batch_size"),
          optimizer_use(table_in(table, "optimizer")),
          named_plugin(Kind::scheduler, table_in(table, "scheduler"), catalog)};
}

ModelUse model_use(const toml::table& table) {
  ModelUse model{table["file"].value<std::string>(),
                 table["architecture"].value<std::string>(),
                 table["width"].value<std::int64_t>(),
                 {}};
  if (const auto name = table["normalization"].value<std::string>()) {
    const auto& [_, mean, deviation] = *schema::find_normalization(*name);
    model.normalization = {{mean.begin(), mean.end()}, {deviation.begin(), deviation.end()}};
  } else if (table.contains("mean")) {
    model.normalization = {list<double>(table, "mean"), list<double>(table, "deviation")};
  }
  return model;
}

AttackUse attack_use(const toml::table& table, const catalog::Catalog& catalog) {
  return {named_plugin(Kind::attack, table, catalog),
          table["file"].value<std::string>(),
          get<double>(table, "poison_ratio"),
          get<std::int64_t>(table, "target"),
          get<std::string>(table, "labels") == "all-to-all",
          training_use(table_in(table, "training"), catalog)};
}

DefenseUse defense_use(const toml::table& table, const catalog::Catalog& catalog) {
  return {named_plugin(Kind::defense, table, catalog), get<std::string>(table, "name"),
          table["clean_images"].value<std::int64_t>(), table["clean_fraction"].value_or(0.0),
          get<std::int64_t>(table, "measure_every")};
}

DetectorUse detector_use(const toml::table& table, const catalog::Catalog& catalog) {
  return {named_plugin(Kind::defense, table, catalog), get<std::string>(table, "name"),
          table["clean_images"].value<std::int64_t>(), table["clean_fraction"].value_or(0.0),
          table["test_limit"].value_or(std::int64_t{0})};
}

AuditUse audit_use(const toml::table& table) {
  AuditUse audit;
  audit.controls = get<bool>(table, "controls");
  const auto integer = [](const toml::table& part, const char* key) {
    return get<std::int64_t>(part, key);
  };
  if (const auto& part = table_in(table, "retuning"); get<bool>(part, "enabled"))
    audit.retuning = {get<double>(part, "clean_fraction"), get<double>(part, "rate"),
                      integer(part, "poisoned_images"), integer(part, "epochs"),
                      integer(part, "batch_size")};
  if (const auto& part = table_in(table, "path"); get<bool>(part, "enabled"))
    audit.path = {integer(part, "points")};
  if (const auto& part = table_in(table, "reactivation"); get<bool>(part, "enabled"))
    audit.reactivation = {get<double>(part, "norm"), integer(part, "images"),
                          integer(part, "steps"), integer(part, "batch_size")};
  if (const auto& part = table_in(table, "sequela"); get<bool>(part, "enabled"))
    audit.sequela = {get<double>(part, "universal_radius"), get<double>(part, "radius"),
                     integer(part, "iterations"), integer(part, "images")};
  return audit;
}

ComputeUse compute_use(const toml::table& table) {
  return {get<std::string>(table, "device"), get<std::string>(table, "precision"),
          get<std::int64_t>(table, "threads"), get<std::string>(table, "kernels") == "own"};
}

std::vector<report::Expectation> expectations(const toml::table& recipe) {
  std::vector<report::Expectation> all;
  const auto* expect = recipe["expect"].as_table();
  if (expect == nullptr) return all;
  for (const auto& [row, metrics] : *expect)
    for (const auto& [metric, value] : *metrics.as_table()) {
      if (metric == "extra") {  // a plugin's own
        for (const auto& [own, bounds] : *value.as_table())
          all.push_back({std::string(row.str()), "extra." + std::string(own.str()),
                         (*bounds.as_table())["minimum"].value<double>(),
                         (*bounds.as_table())["maximum"].value<double>()});
        continue;
      }
      report::Expectation& expectation =
          all.emplace_back(report::Expectation{std::string(row.str()), std::string(metric.str())});
      if (const auto* bounds = value.as_table()) {
        expectation.minimum = (*bounds)["minimum"].value<double>();
        expectation.maximum = (*bounds)["maximum"].value<double>();
      } else {
        expectation.classes = list<std::string>(*metrics.as_table(), metric.str());
      }
    }
  return all;
}

Scenario scenario_of(const toml::table& recipe) {
  const auto name = get<std::string>(recipe, "scenario");
  if (name == to_string(Scenario::transfer)) return Scenario::transfer;
  return name == to_string(Scenario::encoder) ? Scenario::encoder : Scenario::standalone;
}

}  // namespace

std::string_view to_string(Scenario scenario) {
  constexpr std::string_view kNames[] = {"standalone", "transfer", "encoder"};
  return kNames[static_cast<std::size_t>(scenario)];
}

bool PluginUse::needs(std::string_view what) const {
  return plugin->manifest.asks_for(what);
}

std::string file_name_of(std::string row) {
  std::replace_if(
      row.begin(), row.end(),
      [](char c) {
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        const bool ascii = static_cast<unsigned char>(c) < 0x80;
        return ascii && !letter && !(c >= '0' && c <= '9') && c != '.' && c != '-';
      },
      '-');
  return row;
}

PluginUse plugin_use(const catalog::PluginEntry& plugin, const toml::table& table,
                     const catalog::Catalog& catalog) {
  PluginUse use{&plugin, {}, {}, {}};
  for (const auto& parameter : plugin.manifest.parameters) {
    const toml::node* value = table.get(parameter.key);
    if (value == nullptr) continue;
    use.parameters.insert(parameter.key, *value);
    if (parameter.type != schema::ParameterType::scheduler) continue;
    use.schedulers.push_back(named_plugin(Kind::scheduler, *value->as_table(), catalog));
    use.schedulers.back().key = parameter.key;
  }
  return use;
}

OptimizerUse optimizer_use(const toml::table& table) {
  OptimizerUse optimizer;
  optimizer.name = table["name"].value_or(optimizer.name);
  optimizer.momentum = table["momentum"].value_or(optimizer.momentum);
  optimizer.weight_decay = table["weight_decay"].value_or(optimizer.weight_decay);
  optimizer.nesterov = table["nesterov"].value_or(optimizer.nesterov);
  optimizer.beta1 = table["beta1"].value_or(optimizer.beta1);
  optimizer.beta2 = table["beta2"].value_or(optimizer.beta2);
  optimizer.epsilon = table["epsilon"].value_or(optimizer.epsilon);
  return optimizer;
}

Recipe typed(toml::table resolved, const catalog::Catalog& catalog) {
  Recipe recipe;
  recipe.name = get<std::string>(resolved, "name");
  recipe.scenario = scenario_of(resolved);
  recipe.seed = get<std::int64_t>(resolved, "seed");
  if (const auto* dataset = resolved["pretraining"]["dataset"].as_table())
    recipe.pretraining = dataset_use(*dataset, catalog);
  recipe.dataset = dataset_use(table_in(resolved, "dataset"), catalog);
  recipe.model = model_use(table_in(resolved, "model"));
  if (const auto* attack = resolved["attack"].as_table())
    recipe.attack = attack_use(*attack, catalog);
  for (const auto& defense : *resolved["defense"].as_array())
    recipe.defenses.push_back(defense_use(*defense.as_table(), catalog));
  for (const auto& detector : *resolved["detector"].as_array())
    recipe.detectors.push_back(detector_use(*detector.as_table(), catalog));
  if (const auto* audit = resolved["audit"].as_table()) recipe.audit = audit_use(*audit);
  recipe.compute = compute_use(table_in(resolved, "compute"));
  recipe.expectations = expectations(resolved);
  recipe.table = std::move(resolved);
  return recipe;
}

}  // namespace backstop::recipe
