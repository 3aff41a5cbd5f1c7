#include "host/engine/run/trigger.hpp"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace backstop::engine {

namespace {

using Record = std::map<std::string, std::string>;

std::string parameters_text(const PluginInput& plugin) {
  nlohmann::json parameters = plugin.key["parameters"];
  for (const auto& parameter : plugin.use.plugin->manifest.parameters)
    if (parameter.type == schema::ParameterType::path) parameters.erase(parameter.key);
  return parameters.dump();
}

/// Which images of its training split the attack saw, in which order and size.
std::string selection_text(const AttackInputs& inputs) {
  nlohmann::json selection = inputs.source->data.choice;
  selection.erase("test_limit");
  // The seed draws what `per_class` and `limit` select.
  const bool drawn = selection.value("per_class", 0) > 0 || selection.value("limit", 0) > 0;
  if (drawn) selection["seed"] = inputs.seed;
  return selection.dump();
}

/// "patch_size 3 instead of 5" for every parameter that differs.
void compare_parameters(const std::string& recorded, const std::string& expected,
                        std::vector<std::string>& differences) {
  const auto before = nlohmann::json::parse(recorded, nullptr, false);
  const auto now = nlohmann::json::parse(expected);
  if (!before.is_object()) {
    differences.emplace_back("parameters that cannot be read");
    return;
  }
  for (const auto& [key, value] : now.items()) {
    const auto entry = before.find(key);
    if (entry == before.end() || *entry != value)
      differences.push_back(fmt::format("{} {} instead of {}", key,
                                        entry == before.end() ? "not set" : entry->dump(),
                                        value.dump()));
  }
  for (const auto& [key, value] : before.items())
    if (!now.contains(key))
      differences.push_back(fmt::format("{} {} instead of not set", key, value.dump()));
}

}  // namespace

TriggeredSet triggered_set(const PluginObject& attack, const DatasetInput& dataset,
                           const Threat* threat, StageContext& ctx) {
  const CostMeter::Evaluation pause(ctx.cost());
  const ImageStore& test = dataset.data.test;
  std::vector<at::Tensor> parts;
  constexpr std::int64_t kChunk = 1000;
  for (std::int64_t first = 0; first < test.size(); first += kChunk) {
    ctx.stop_if_cancelled();
    const at::Tensor positions =
        at::arange(first, std::min(first + kChunk, test.size()), at::kLong);
    const at::Tensor clean = test.images(positions);
    const at::Tensor images = call(attack, "apply", ctx, [&] {
      return attack.as<Attack>().apply(ctx, clean, Phase::test).detach();
    });
    if (images.sizes() != clean.sizes() || !at::isfinite(images).all().item<bool>())
      throw base::HostError(
          base::ExitCode::plugin,
          fmt::format("attack `{}` returned triggered images of another shape or with values that "
                      "are not finite",
                      attack.entry().manifest.name),
          "the plugin is " + attack.entry().path.string());
    parts.push_back(to_8_bits(images));
  }
  const at::Tensor labels = test.labels();
  return {ImageStore(at::cat(parts), labels, test.classes(), labels.device()),
          threat != nullptr ? threat->targets(labels) : at::Tensor()};
}

Record attack_record(const AttackInputs& inputs) {
  return {{"attack", inputs.attack.use.name()},
          {"version", inputs.attack.use.plugin->manifest.version},
          {"parameters", parameters_text(inputs.attack)},
          {"labels", inputs.threat.all_to_all != 0 ? "all-to-all" : "all-to-one"},
          {"target", std::to_string(inputs.threat.target)},
          {"classes", std::to_string(inputs.threat.classes)},
          {"poison_ratio", fmt::format("{}", inputs.threat.poison_ratio)},
          {"dataset", inputs.source->name},
          {"training_set", inputs.source->data.train_fingerprint},
          {"selection", selection_text(inputs)}};
}

void require_same_attack(const Record& record, const AttackInputs& inputs) {
  if (!record.contains("attack")) return;
  const Record expected = attack_record(inputs);
  std::vector<std::string> differences;
  for (const char* key : {"attack", "labels", "target", "classes", "poison_ratio"}) {
    const auto entry = record.find(key);
    // All-to-all uses no target.
    if (std::string_view(key) == "target" && inputs.threat.all_to_all != 0) continue;
    if (entry != record.end() && entry->second != expected.at(key))
      differences.push_back(
          fmt::format("{} {} instead of {}", key, entry->second, expected.at(key)));
  }
  const auto parameters = record.find("parameters");
  if (differences.empty() && parameters != record.end())
    compare_parameters(parameters->second, expected.at("parameters"), differences);
  if (differences.empty()) return;
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("{} comes from another attack than the recipe's: {}",
                  inputs.attack_file->path.string(), fmt::join(differences, ", ")),
      "write the file's values into [attack], or leave out `file` to make the trigger anew");
}

void require_same_training_set(const Record& record, const AttackInputs& inputs) {
  const auto content = record.find("training_set");
  if (content == record.end()) return;
  const Record expected = attack_record(inputs);
  const auto entry = [](const Record& of, const char* key) {
    const auto value = of.find(key);
    return value == of.end() ? "?" : value->second;
  };
  const auto name = [&](const Record& of) {
    return fmt::format("`{}` {:.12}", entry(of, "dataset"), entry(of, "training_set"));
  };
  std::vector<std::string> differences;
  if (content->second != expected.at("training_set"))
    differences.push_back(fmt::format("{} instead of {}", name(record), name(expected)));
  else
    compare_parameters(entry(record, "selection"), expected.at("selection"), differences);
  if (differences.empty()) return;
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("{} holds poisoned images for another training set: {}",
                  inputs.attack_file->path.string(), fmt::join(differences, ", ")),
      "they replace images by their positions; use the file with the dataset, the selection of "
      "images and the seed of its run");
}

std::string unverified(const Record& record, bool poison) {
  if (!record.contains("attack"))
    return "does not record how it was made: whether it fits the recipe's attack, target and "
           "training set cannot be verified";
  if (poison && !record.contains("training_set"))
    return "does not record its training set: whether its poisoned images belong at their "
           "positions cannot be verified";
  return {};
}

}  // namespace backstop::engine
