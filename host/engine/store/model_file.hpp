// Files of weights, and what they say of the model that the weights belong to.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "host/engine/data/image_store.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/store/safetensors.hpp"

namespace backstop::engine {

/// What a file records besides the weights; nothing where it records nothing.
struct ModelFacts {
  std::optional<std::string> architecture;
  std::optional<std::int64_t> width, channels, classes;
  std::optional<Normalization> normalization;
  std::optional<std::string> attack;  ///< the plugin that the model was trained with
};

struct ModelFile {
  NamedTensors weights;
  ModelFacts facts;
};

/// Reads a safetensors file. Throws HostError(environment) that names the file, also when a weight
/// is not finite, or when what it records of its model is not what was written by record_of().
ModelFile read_model_file(const std::filesystem::path& path);

/// Throws HostError(environment) that names the file, the first tensor with numbers that are not
/// finite in float32, and how many it has.
void require_finite(const NamedTensors& tensors, const std::filesystem::path& path);

/// In the metadata of a model that an attack has trained: ModelFacts::attack.
inline constexpr const char* kAttackKey = "attack";
/// The metadata of a model's file: format, architecture, width, channels, classes, mean, deviation.
std::map<std::string, std::string> record_of(const Classifier& model);

/// Throws HostError(usage) when the facts contradict `architecture`, naming `where`.
void require_same_model(const ModelFacts& facts, const Architecture& architecture,
                        const std::string& where);

/// "mean [0.4914, 0.4822, 0.4465], deviation [0.247, 0.243, 0.261]", of the first `channels`.
std::string text_of(const Normalization& normalization, std::int64_t channels);
/// Whether two normalizations are the same for `channels` channels, to the sixth digit.
bool same_normalization(const Normalization& a, const Normalization& b, std::int64_t channels);

}  // namespace backstop::engine
