#include "host/engine/store/opened_model.hpp"

#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/engine/formats/model_source.hpp"
#include "host/engine/model/recognize.hpp"
#include "host/schema/architectures.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

NamedTensors renamed(NamedTensors tensors, const std::map<std::string, std::string>& names) {
  for (auto& [name, tensor] : tensors)
    if (const auto other = names.find(name); other != names.end()) name = other->second;
  return tensors;
}

json counts_by_type(const std::vector<StoredTensor>& tensors) {
  std::map<std::string, std::int64_t> counts;
  for (const StoredTensor& tensor : tensors)
    counts[std::string(to_string(tensor.type))] += c10::multiply_integers(tensor.shape);
  return counts;
}

Architecture architecture_of(const std::shared_ptr<const Script>& script, const ScriptFacts& facts,
                             const std::filesystem::path& path) {
  if (!facts.classes || !facts.channels)
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("{} is TorchScript, but {} cannot be told from it", path.string(),
                    facts.classes ? "the channels of its images" : "the number of its classes"),
        "its forward must take images [n, channels, height, width] and give a score for each "
        "class");
  Architecture architecture;
  architecture.name = "torchscript";
  architecture.channels = *facts.channels;
  architecture.classes = *facts.classes;
  architecture.script = script;
  return architecture;
}

/// What a network of a file offers to the plugins, in words.
json offers_of(const OpenedModel& model) {
  json offers = json::array();
  const auto add = [&](bool head, bool batch_norm, bool feature_maps) {
    if (head) offers.push_back("features and a head that can be replaced");
    if (batch_norm) offers.push_back("batch normalization");
    if (feature_maps) offers.push_back("feature maps");
  };
  if (model.script)
    add(model.script->has_head, model.script->batch_norm, model.script->feature_maps);
  else if (const auto* info = schema::find_architecture(model.architecture.name))
    add(info->replaceable_head, info->batch_norm, info->feature_maps);
  return offers;
}

std::string network_text(const Architecture& architecture) {
  if (!architecture.script) return text_of(architecture);
  return fmt::format("TorchScript, {} parameters, {} classes, {} channel{}",
                     base::grouped(parameters_of(*architecture.script)), architecture.classes,
                     architecture.channels, architecture.channels == 1 ? "" : "s");
}

}  // namespace

NamedTensors OpenedModel::weights() const {
  if (architecture.script) return state_of(*architecture.script);
  return renamed(file.weights, names);
}

NamedTensors OpenedModel::as_in_file(NamedTensors weights) const {
  std::map<std::string, std::string> back;
  for (const auto& [theirs, ours] : names) back.emplace(ours, theirs);
  return renamed(std::move(weights), back);
}

OpenedModel open_model(const std::filesystem::path& path) {
  OpenedModel model{path, read_model_file(path), {}, {}, {}};
  if (model.file.format == FileFormat::torchscript) {
    const auto script = load_script(path);
    model.script = describe_script(script);
    model.architecture = architecture_of(script, *model.script, path);
    return model;
  }
  const Recognition recognition = recognize(shapes_of(model.file.weights));
  if (!recognition.network)
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("{} belongs to no network that is built in: {}", path.string(),
                    text_of(recognition)),
        "any network can be used as TorchScript: `torch.jit.script(model).save(\"model.pt\")` in "
        "Python");
  model.architecture = *recognition.network;
  model.names = recognition.names;
  return model;
}

json describe_model(const std::filesystem::path& path) {
  json facts = {{"file", path.string()}};
  try {
    const ModelHeader file = read_model_header(path);
    facts["format"] = to_string(file.format);
    facts["location"] = file.location;
    facts["prefix"] = file.prefix;
    facts["rest"] = file.rest;
    facts["tensors"] = file.tensors.size();
    facts["numbers"] = counts_by_type(file.tensors);
    facts["trained_with"] = file.facts.attack ? json(*file.facts.attack) : json(nullptr);
    const OpenedModel model = open_model(path);
    const Architecture& a = model.architecture;
    facts["network"] = network_text(a);
    facts["offers"] = offers_of(model);
    if (model.script) facts["notes"] = model.script->notes;
    facts["architecture"] = a.name;
    facts["width"] = a.width;
    facts["channels"] = a.channels;
    facts["classes"] = a.classes;
    const auto& normalization = file.facts.normalization;
    facts["normalization"] =
        normalization ? json(text_of(*normalization, a.channels)) : json(nullptr);
  } catch (const base::HostError& e) {
    facts["error"] = e.what();
    facts["hint"] = e.hint();
  }
  return facts;
}

}  // namespace backstop::engine
