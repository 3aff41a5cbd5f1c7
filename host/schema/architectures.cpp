#include "host/schema/architectures.hpp"

#include <algorithm>

namespace backstop::schema {

namespace {

constexpr ArchitectureInfo convolutional(std::string_view name, std::int64_t width,
                                         std::string_view summary) {
  return {.name = name,
          .summary = summary,
          .width = width,
          .feature_maps = true,
          .batch_norm = true,
          .replaceable_head = true};
}

}  // namespace

std::span<const ArchitectureInfo> architectures() {
  static constexpr ArchitectureInfo kArchitectures[] = {
      convolutional("preact-resnet18", 64, "a pre-activation ResNet-18 for small images"),
      convolutional("resnet18", 64, "a ResNet-18 with a 3x3 stem"),
      convolutional("resnet34", 64, "a ResNet-34 with a 3x3 stem"),
      convolutional("resnet50", 64, "a ResNet-50 with a 3x3 stem"),
      convolutional("resnet18-7x7", 64, "torchvision's ResNet-18"),
      convolutional("resnet34-7x7", 64, "torchvision's ResNet-34"),
      convolutional("resnet50-7x7", 64, "torchvision's ResNet-50"),
      convolutional("resnet20", 16, "the ResNet-20 for CIFAR"),
      convolutional("resnet32", 16, "the ResNet-32 for CIFAR"),
      convolutional("resnet44", 16, "the ResNet-44 for CIFAR"),
      convolutional("resnet56", 16, "the ResNet-56 for CIFAR"),
      convolutional("resnet110", 16, "the ResNet-110 for CIFAR"),
      convolutional("resnet20-b", 16, "resnet20 with projections"),
      convolutional("resnet32-b", 16, "resnet32 with projections"),
      convolutional("resnet44-b", 16, "resnet44 with projections"),
      convolutional("resnet56-b", 16, "resnet56 with projections"),
      convolutional("resnet110-b", 16, "resnet110 with projections"),
      convolutional("small-cnn", 64, "three convolutions, for tests and first steps"),
      {.name = "mlp",
       .summary = "two hidden layers, without convolutions or batch normalization",
       .width = 64,
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
