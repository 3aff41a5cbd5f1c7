#include "host/schema/architectures.hpp"

#include <algorithm>

namespace backstop::schema {

std::span<const ArchitectureInfo> architectures() {
  static constexpr ArchitectureInfo kArchitectures[] = {
      {.name = "preact-resnet18",
       .summary = "a pre-activation ResNet-18 for small images",
       .feature_maps = true,
       .batch_norm = true,
       .replaceable_head = true},
      {.name = "resnet18",
       .summary = "a ResNet-18 with a 3x3 stem",
       .feature_maps = true,
       .batch_norm = true,
       .replaceable_head = true},
      {.name = "small-cnn",
       .summary = "three convolutions, for tests and first steps",
       .feature_maps = true,
       .batch_norm = true,
       .replaceable_head = true},
      {.name = "mlp",
       .summary = "two hidden layers, without convolutions or batch normalization",
       .feature_maps = false,
       .batch_norm = false,
       .replaceable_head = true},
  };
  return kArchitectures;
}

const ArchitectureInfo* find_architecture(std::string_view name) {
  const auto all = architectures();
  const auto match = std::find_if(all.begin(), all.end(),
                                  [&](const ArchitectureInfo& info) { return info.name == name; });
  return match == all.end() ? nullptr : &*match;
}

std::span<const ModelTrait> model_traits() {
  static constexpr ModelTrait kTraits[] = {
      {"feature-maps", "the feature maps of stages", &ArchitectureInfo::feature_maps},
      {"batch-norm", "batch normalization", &ArchitectureInfo::batch_norm},
  };
  return kTraits;
}

}  // namespace backstop::schema
