// Normalizations that models are commonly trained with, by name.
#pragma once

#include <array>
#include <span>
#include <string_view>

namespace backstop::schema {

/// (v / 255 - mean) / deviation, for each of three channels; the first is that of gray images.
struct NamedNormalization {
  std::string_view name;
  std::array<double, 3> mean, deviation;
};

/// In the order in which they are tried for a model that does not record its own: "imagenet"
/// (torchvision's models), "cifar10" (statistics of its training set), "cifar10-std" (the same mean
/// with the mean of each image's deviation, as in kuangliu/pytorch-cifar), "mnist" (gray images),
/// "half" (pixels in [-1, 1]), "none" (pixels in [0, 1]).
std::span<const NamedNormalization> normalizations();

/// Null if there is none of that name.
const NamedNormalization* find_normalization(std::string_view name);

}  // namespace backstop::schema
