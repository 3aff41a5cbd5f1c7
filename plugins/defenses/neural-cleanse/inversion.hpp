// Neural Cleanse's search for triggers: for each class, the smallest mask and a pattern under it
// that move any image into that class.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backstop/context.hpp"
#include "penalty.hpp"

namespace backstop::neural_cleanse {

struct Settings {
  std::int64_t epochs = 80;
  std::int64_t batch_size = 256;
  std::int64_t classes_at_once = 0;  ///< 0: as many as memory allows
  double rate = 0.1;
  double success_threshold = 0.99;
  Penalty::Settings penalty;
};

struct Triggers {
  at::Tensor masks;           ///< [classes, 1, H, W] in [0, 1]
  at::Tensor patterns;        ///< [classes, C, H, W] in [0, 1]
  std::vector<double> norms;  ///< the sum of each class's mask
  std::vector<bool> found;    ///< whether the class has a trigger that works on enough images
};

/// (1 - mask) * images + mask * pattern, with broadcasting.
inline at::Tensor stamped(const at::Tensor& images, const at::Tensor& mask,
                          const at::Tensor& pattern) {
  return images.lerp(pattern, mask);
}

struct Objective {
  at::Tensor loss;  ///< scalar with a graph: the classes' objectives, added up
  at::Tensor hits;  ///< int64 [k]: on how many of the images each trigger works
};
/// The objective of `raw` [k, 1 + C, H, W], the masks and patterns before the tanh, on `images`
/// [n, C, H, W], for the classes `targets` [k] and the weights `costs` [k] of their masks' norms.
Objective objective(Model& model, const at::Tensor& images, const at::Tensor& raw,
                    const at::Tensor& targets, const at::Tensor& costs);

/// `model` must be in evaluation mode, with no trainable weights.
Triggers find_triggers(Context& ctx, Model& model, const ImageSet& clean, const Settings& settings);

}  // namespace backstop::neural_cleanse
