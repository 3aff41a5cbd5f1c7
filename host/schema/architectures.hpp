// The networks that a recipe can name, and what each of them offers to a defense. Recipes are
// checked against this list without LibTorch; host/engine/model/registry.cpp builds the networks.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace backstop::schema {

/// One choice of `[model] architecture`.
struct ArchitectureInfo {
  std::string_view name;
  std::string_view summary;  ///< half a line for the help of `architecture`
  std::int64_t width;        ///< channels of the first stage in the network's publication
  bool feature_maps;         ///< has stages that Model::observe reports as [n, c, h, w]
  bool batch_norm;           ///< has batch normalization layers
  bool replaceable_head;     ///< ends in a linear layer that Model::replace_head can exchange
};

std::span<const ArchitectureInfo> architectures();

/// Null if there is no architecture of that name.
const ArchitectureInfo* find_architecture(std::string_view name);

/// Something that a manifest's `needs` can ask of a model.
struct ModelTrait {
  std::string_view need;  ///< as the manifest writes it
  std::string_view text;  ///< what to call it in a sentence
  bool ArchitectureInfo::*offered;
};

std::span<const ModelTrait> model_traits();

}  // namespace backstop::schema
