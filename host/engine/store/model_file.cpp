#include "host/engine/store/model_file.hpp"

#include <cmath>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;
using Record = std::map<std::string, std::string>;

[[noreturn]] void damaged(const std::filesystem::path& path, const std::string& key,
                          const std::string& value) {
  throw base::HostError(
      base::ExitCode::environment,
      fmt::format("{} records `{}` = \"{}\", which is not a valid value", path.string(), key,
                  value),
      "the file is damaged, or was written by another program; remove its metadata to load it as "
      "plain weights");
}

std::optional<std::int64_t> integer_in(const Record& record, const std::string& key,
                                       const std::filesystem::path& path) {
  const auto entry = record.find(key);
  if (entry == record.end()) return std::nullopt;
  const json value = json::parse(entry->second, nullptr, false);
  if (!value.is_number_integer() || value.get<std::int64_t>() < 1)
    damaged(path, key, entry->second);
  return value.get<std::int64_t>();
}

/// Constants for pixels in [0, 1] are never near this, and float32 can divide by its inverse.
constexpr double kLargest = 1e6;

/// One or three numbers, for three channels.
std::optional<std::array<double, 3>> constants_in(const Record& record, const std::string& key,
                                                  const std::filesystem::path& path) {
  const auto entry = record.find(key);
  if (entry == record.end()) return std::nullopt;
  const json value = json::parse(entry->second, nullptr, false);
  if (!value.is_array() || (value.size() != 1 && value.size() != 3))
    damaged(path, key, entry->second);
  std::array<double, 3> constants{};
  for (std::size_t c = 0; c < constants.size(); ++c) {
    const json& number = value[value.size() == 1 ? 0 : c];
    if (!number.is_number() || !std::isfinite(number.get<double>()) ||
        std::abs(number.get<double>()) > kLargest ||
        (key == "deviation" && number.get<double>() < 1 / kLargest))
      damaged(path, key, entry->second);
    constants[c] = number.get<double>();
  }
  return constants;
}

std::vector<double> first(const std::array<double, 3>& values, std::int64_t channels) {
  return {values.begin(), values.begin() + channels};
}

}  // namespace

void require_finite(const NamedTensors& tensors, const std::filesystem::path& path) {
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.is_floating_point()) continue;
    const auto numbers =
        at::isfinite(tensor.to(at::kFloat)).logical_not().sum().item<std::int64_t>();
    if (numbers > 0)
      throw base::HostError(base::ExitCode::environment,
                            fmt::format("{}: {} of the {} numbers in `{}` are not finite",
                                        path.string(), numbers, tensor.numel(), name),
                            "the file is damaged, or its training diverged");
  }
}

std::string_view to_string(FileFormat format) {
  switch (format) {
    case FileFormat::safetensors:
      return "safetensors";
    case FileFormat::checkpoint:
      return "PyTorch checkpoint";
    case FileFormat::legacy_checkpoint:
      return "PyTorch checkpoint, older form";
    case FileFormat::torchscript:
      return "TorchScript";
  }
  return "unknown";
}

ModelFile read_model_file(const std::filesystem::path& path) {
  TensorFile file = read_safetensors(path);
  require_finite(file.tensors, path);
  ModelFile model;
  model.weights = std::move(file.tensors);
  const Record& record = file.metadata;
  // Files of other programs may have any metadata; one of these three keys makes it a record.
  if (!record.contains("architecture") && !record.contains("mean") && !record.contains("deviation"))
    return model;
  if (const auto name = record.find("architecture"); name != record.end())
    model.facts.architecture = name->second;
  if (const auto attack = record.find(kAttackKey); attack != record.end())
    model.facts.attack = attack->second;
  model.facts.width = integer_in(record, "width", path);
  model.facts.channels = integer_in(record, "channels", path);
  model.facts.classes = integer_in(record, "classes", path);
  const auto mean = constants_in(record, "mean", path);
  const auto deviation = constants_in(record, "deviation", path);
  if (mean.has_value() != deviation.has_value())
    damaged(path, mean ? "mean" : "deviation", record.at(mean ? "mean" : "deviation"));
  if (mean && deviation) model.facts.normalization = Normalization{*mean, *deviation};
  return model;
}

void write_like(const std::filesystem::path& original, const std::filesystem::path& output,
                const NamedTensors& weights) {
  TensorFile file = read_safetensors(original);
  for (const auto& [name, value] : weights)
    for (auto& entry : file.tensors)
      if (entry.first == name) entry.second = value.to(entry.second.scalar_type());
  write_safetensors(output, file.tensors, file.metadata);
}

std::map<std::string, std::string> record_of(const Classifier& model) {
  const Architecture& a = model.architecture();
  const auto list = [&](const std::array<double, 3>& values) {
    return json(first(values, a.channels)).dump();
  };
  return {{"format", "pt"},
          {"architecture", a.name},
          {"width", std::to_string(a.width)},
          {"channels", std::to_string(a.channels)},
          {"classes", std::to_string(a.classes)},
          {"mean", list(model.normalization().mean)},
          {"deviation", list(model.normalization().deviation)}};
}

void require_same_model(const ModelFacts& facts, const Architecture& architecture,
                        const std::string& where) {
  std::vector<std::string> differences;
  const auto compare = [&](const char* what, const auto& recorded, const auto& expected) {
    if (recorded && *recorded != expected)
      differences.push_back(fmt::format("{} {} instead of {}", what, *recorded, expected));
  };
  compare("architecture", facts.architecture, architecture.name);
  compare("width", facts.width, architecture.width);
  compare("channels", facts.channels, architecture.channels);
  compare("classes", facts.classes, architecture.classes);
  if (differences.empty()) return;
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("{} holds another model: {}", where, fmt::join(differences, ", ")),
      "set [model] architecture and width to those of the file; the classes and channels are the "
      "dataset's");
}

std::string text_of(const Normalization& normalization, std::int64_t channels) {
  return fmt::format("mean {}, deviation {}", first(normalization.mean, channels),
                     first(normalization.deviation, channels));
}

bool same_normalization(const Normalization& a, const Normalization& b, std::int64_t channels) {
  constexpr double kTolerance = 1e-6;
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c)
    if (std::abs(a.mean[c] - b.mean[c]) > kTolerance ||
        std::abs(a.deviation[c] - b.deviation[c]) > kTolerance)
      return false;
  return true;
}

}  // namespace backstop::engine
