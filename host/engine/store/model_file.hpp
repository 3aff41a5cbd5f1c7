// Files of weights, and what they say of the model that the weights belong to.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/engine/data/image_store.hpp"
#include "host/engine/formats/model_header.hpp"
#include "host/engine/formats/safetensors_header.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/store/safetensors.hpp"

namespace backstop::engine {

struct ModelFile {
  /// In the file's order and dtypes, contiguous, on the CPU, finite; without `prefix`. Those of
  /// TorchScript are named by the path of their attribute, as state_dict() names them, and have none.
  NamedTensors weights;
  ModelFacts facts;
  FileFormat format = FileFormat::safetensors;
  std::string location;           ///< where the state dict lies: "state_dict", "" for the root
  std::string prefix;             ///< what was taken off all names: "module."
  std::vector<std::string> rest;  ///< what else is in the file, in words: "epoch = 200"
};

/// Reads a file of any FileFormat. Throws HostError(environment) that names the file, also when a
/// weight is not finite, or when what it records of its model is not what was written by
/// record_of(). A file of another kind is refused with what it is and the way to one of these.
ModelFile read_model_file(const std::filesystem::path& path);

/// Writes a copy of `original` to `output`, in which the tensors of these names (as in
/// ModelFile::weights) have other values: same format, names, prefix, dtypes, strides and further
/// entries. A `num_batches_tracked` that the file lacks is left out. Written whole and renamed into
/// place, so that `output` may be `original`. Throws HostError(environment), also when a value does
/// not fit into the file's dtype, or tensors that share numbers there are to differ.
void write_like(const std::filesystem::path& original, const std::filesystem::path& output,
                const NamedTensors& weights);

/// Throws HostError(environment) that names the file, the first tensor with numbers that are not
/// finite in float32, and how many it has.
void require_finite(const NamedTensors& tensors, const std::filesystem::path& path);

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
