#include "host/engine/run/inputs.hpp"

#include <algorithm>
#include <map>
#include <sstream>
#include <vector>

#include <dlfcn.h>

#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/engine/model/torchscript.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// SHA-256 of the file that this code runs from: another build may compute other bits.
const std::string& build_hash() {
  static const std::string hash = [] {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(&build_hash), &info);
    return base::sha256_of_file(fs::canonical(info.dli_fname));
  }();
  return hash;
}

json to_json(const toml::table& table) {
  std::ostringstream text;
  text << toml::json_formatter(table);
  return json::parse(text.str());
}

/// A file's name as JSON can hold it: names that are not UTF-8 must stay different.
std::string key_text(const std::string& name) {
  return base::valid_utf8(name) == name ? name : "SHA-256 " + base::sha256_of_text(name);
}

/// The content of a file, or of every file below a folder; null where there is nothing.
json content_of(const fs::path& path) {
  if (fs::is_regular_file(path)) return base::sha256_of_file(path);
  if (!fs::is_directory(path)) return nullptr;
  json files = json::object();
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file())
      files[key_text(entry.path().lexically_relative(path).string())] =
          base::sha256_of_file(entry.path());
  return files;
}

/// What the paths among the parameters lead to, by parameter.
json files_of(const recipe::PluginUse& use) {
  json files = json::object();
  for (const auto& parameter : use.plugin->manifest.parameters) {
    if (parameter.type != schema::ParameterType::path) continue;
    const toml::node* node = use.parameters.get(parameter.key);
    if (node == nullptr) continue;
    if (const auto path = node->value<std::string>()) files[parameter.key] = content_of(*path);
    if (const auto* list = node->as_array())
      for (const auto& element : *list)
        files[parameter.key].push_back(content_of(element.value_or(std::string())));
  }
  return files;
}

json key_of(const recipe::PluginUse& use) {
  json schedulers = json::object();
  for (const auto& scheduler : use.schedulers) schedulers[scheduler.key] = key_of(scheduler);
  const auto& manifest = use.plugin->manifest;
  return {{"kind", to_string(manifest.kind)},      {"name", manifest.name},
          {"version", manifest.version},           {"sha256", hash_of_plugin(use.plugin->path)},
          {"parameters", to_json(use.parameters)}, {"files", files_of(use)},
          {"schedulers", std::move(schedulers)}};
}

json key_of(const Normalization& normalization) {
  return {normalization.mean, normalization.deviation};
}

json key_of(const DatasetInput& dataset) {
  const auto& [name, data, augmentation] = dataset;
  const auto& [crop_padding, horizontal_flip] = augmentation;
  return {{"content", data.fingerprint},
          {"choice", data.choice},
          {"classes", data.train.classes()},
          {"augmentation", {crop_padding, horizontal_flip}}};
}

json key_of(const Architecture& architecture) {
  const auto& [name, width, channels, classes, pixels, script] = architecture;
  return {name, width, channels, classes, pixels, script ? sha256_of(*script) : std::string()};
}

json key_of(const Compute& compute) {
  const auto& [device, bfloat16, threads, own_kernels] = compute;
  return {c10::DeviceTypeName(device.type()), bfloat16, threads, own_kernels};
}

json key_of(const Threat& threat) {
  const auto& [size, all_to_all, target, classes, poison_ratio] = threat;
  return {{"all_to_all", all_to_all != 0},
          {"target", target},
          {"classes", classes},
          {"poison_ratio", poison_ratio}};
}

json key_of(const recipe::TrainingUse& training) {
  const auto& [epochs, batch_size, optimizer, scheduler] = training;
  const auto& [name, momentum, weight_decay, nesterov, beta1, beta2, epsilon] = optimizer;
  return {{"epochs", epochs},
          {"batch_size", batch_size},
          {"optimizer", {name, momentum, weight_decay, nesterov, beta1, beta2, epsilon}}};
}

json key_of(const std::optional<FileInput>& file) {
  return file ? json(file->sha256) : json(nullptr);
}

json key_of(const std::optional<recipe::AuditUse::Retuning>& part) {
  if (!part) return nullptr;
  const auto& [clean_fraction, rate, poisoned_images, epochs, batch_size] = *part;
  return {clean_fraction, rate, poisoned_images, epochs, batch_size};
}

json key_of(const std::optional<recipe::AuditUse::Path>& part) {
  if (!part) return nullptr;
  const auto& [points] = *part;
  return {points};
}

json key_of(const std::optional<recipe::AuditUse::Reactivation>& part) {
  if (!part) return nullptr;
  const auto& [norm, images, steps, batch_size] = *part;
  return {norm, images, steps, batch_size};
}

json key_of(const std::optional<recipe::AuditUse::Sequela>& part) {
  if (!part) return nullptr;
  const auto& [universal_radius, radius, iterations, images] = *part;
  return {universal_radius, radius, iterations, images};
}

/// Controls are models of their own, each with an audit of its own.
json key_of(const recipe::AuditUse& settings) {
  const auto& [controls, retuning, path, reactivation, sequela] = settings;
  return {{"retuning", key_of(retuning)},
          {"path", key_of(path)},
          {"reactivation", key_of(reactivation)},
          {"sequela", key_of(sequela)}};
}

json with_build(json key) {
  key["backstop"] = BACKSTOP_VERSION;
  key["engine"] = build_hash();
  return key;
}

}  // namespace

const std::string& hash_of_plugin(const fs::path& file) {
  static std::map<fs::path, std::string> hashes;
  const auto known = hashes.find(file);
  return known != hashes.end() ? known->second
                               : hashes.emplace(file, base::sha256_of_file(file)).first->second;
}

PluginInput plugin_input(const recipe::PluginUse& use) {
  return {use, key_of(use)};
}

FileInput file_input(const fs::path& path) {
  return {path, base::sha256_of_file(path)};
}

// The structured bindings name every member: one more does not compile until it is in the key.
json key_of(const AttackInputs& inputs) {
  const auto& [seed, source, threat, encoder, architecture, normalization, model_file, attack,
               attack_file, training, scheduler, compute] = inputs;
  return with_build({{"stage", "attack"},
                     {"seed", seed},
                     {"source", key_of(*source)},
                     {"threat", key_of(threat)},
                     {"encoder", encoder},
                     {"architecture", key_of(architecture)},
                     {"normalization", key_of(normalization)},
                     {"model_file", key_of(model_file)},
                     {"attack", attack.key},
                     {"attack_file", key_of(attack_file)},
                     {"training", key_of(training)},
                     {"scheduler", scheduler.key},
                     {"compute", key_of(compute)}});
}

json key_of(const SuspectInputs& inputs) {
  const auto& [task, measured, architecture, normalization, model_file, compute] = inputs;
  return with_build({{"stage", "model"},
                     {"task", key_of(*task)},
                     {"measured", measured},
                     {"architecture", key_of(architecture)},
                     {"normalization", key_of(normalization)},
                     {"model_file", model_file.sha256},
                     {"compute", key_of(compute)}});
}

json key_of(const CleanModelInputs& inputs) {
  const auto& [seed, source, architecture, normalization, training, scheduler, compute] = inputs;
  return with_build({{"stage", "clean model"},
                     {"seed", seed},
                     {"source", key_of(*source)},
                     {"architecture", key_of(architecture)},
                     {"normalization", key_of(normalization)},
                     {"training", key_of(training)},
                     {"scheduler", scheduler.key},
                     {"compute", key_of(compute)}});
}

json key_of(const PurificationInputs& inputs) {
  const auto& [attack, undefended, triggered] = inputs;
  return with_build({{"stage", "exact purification"}, {"model", key_of(*attack)}});
}

json key_of(const AuditInputs& inputs) {
  const auto& [settings, attack, undefended, triggered, subject_key, subject] = inputs;
  return with_build({{"stage", "audit"},
                     {"settings", key_of(settings)},
                     {"model", key_of(*attack)},
                     {"subject", subject_key}});
}

json key_of(const DefenseInputs& inputs, const std::string& stage) {
  // What the model's stage left, and the triggered images, follow from its key and the task.
  const auto& [seed, scenario, model_key, undefended, triggered, task, architecture, normalization,
               defense, clean_images, measure_every, test_images, compute] = inputs;
  return with_build({{"stage", stage},
                     {"seed", seed},
                     {"scenario", to_string(scenario)},
                     {"model", model_key},
                     {"task", key_of(*task)},
                     {"architecture", key_of(architecture)},
                     {"normalization", key_of(normalization)},
                     {"defense", defense.key},
                     {"clean_images", clean_images},
                     {"measure_every", measure_every},
                     {"test_images", test_images},
                     {"compute", key_of(compute)}});
}

}  // namespace backstop::engine
