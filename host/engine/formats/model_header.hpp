// What a model's file holds, without the numbers, and without LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/engine/data/normalization.hpp"
#include "host/engine/formats/element_type.hpp"

namespace backstop::engine {

enum class FileFormat {
  safetensors,
  checkpoint,         ///< torch.save: a zip archive, since PyTorch 1.6
  legacy_checkpoint,  ///< torch.save before that: pickles, then the numbers
  torchscript,        ///< torch.jit.save
};
std::string_view to_string(FileFormat format);

/// What a file records besides the weights; nothing where it records nothing.
struct ModelFacts {
  std::optional<std::string> architecture;
  std::optional<std::int64_t> width, channels, classes;
  std::optional<Normalization> normalization;
  std::optional<std::string> attack;  ///< the plugin that the model was trained with
};

/// Numbers that tensors share.
struct StoredBytes {
  std::string name;  ///< for messages: "archive/data/3"
  std::uint64_t offset = 0, size = 0;
  std::optional<std::size_t> entry;  ///< of the zip archive that holds them, perhaps compressed
};

/// A tensor whose elements have been shown to lie within its storage.
struct StoredTensor {
  std::string name;  ///< as in ModelFile::weights
  ElementType type = ElementType::float32;
  std::vector<std::int64_t> shape, strides;
  std::uint64_t offset = 0;  ///< of its first element in the storage, in elements
  std::size_t storage = 0;   ///< in ModelHeader::storages
};

struct ModelHeader {
  FileFormat format = FileFormat::safetensors;
  std::vector<StoredTensor> tensors;  ///< in the file's order
  std::vector<StoredBytes> storages;
  ModelFacts facts;
  std::string location;           ///< where the state dict lies: "state_dict", "" for the root
  std::string prefix;             ///< what was taken off all names: "module."
  std::vector<std::string> rest;  ///< what else is in the file, in words: "epoch = 200"
};

}  // namespace backstop::engine
