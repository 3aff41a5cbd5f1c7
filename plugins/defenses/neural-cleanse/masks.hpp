// Neural Cleanse's triggers: a mask and a pattern under it, and the mask's norm as their size.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/rand.h>

#include "search.hpp"

namespace backstop::neural_cleanse {

/// (1 - mask) * images + mask * pattern, with broadcasting.
inline at::Tensor stamped(const at::Tensor& images, const at::Tensor& mask,
                          const at::Tensor& pattern) {
  return images.lerp(pattern, mask);
}

/// Raw triggers are [k, 1 + C, H, W]: masks and patterns before the tanh.
class Masks final : public trigger_search::Form {
 public:
  /// [k, 1, H, W] in [0, 1].
  static at::Tensor masks(const at::Tensor& raw) { return squashed(raw).narrow(1, 0, 1); }
  /// [k, C, H, W] in [0, 1].
  static at::Tensor patterns(const at::Tensor& raw) {
    return squashed(raw).narrow(1, 1, raw.size(1) - 1);
  }

  at::Tensor start(const ImageSet& images, std::int64_t classes,
                   at::Generator& generator) const override {
    constexpr double kEdge = 1 - 1e-6;  // the inverse of tanh is infinite at 1
    return at::rand({classes, 1 + images.channels(), images.height(), images.width()}, generator)
        .mul_(2)
        .sub_(1)
        .clamp_(-kEdge, kEdge)
        .atanh_();
  }
  trigger_search::Applied apply(const at::Tensor& images, const at::Tensor& raw) const override {
    const at::Tensor values = squashed(raw);
    const at::Tensor masks = values.narrow(1, 0, 1);
    const at::Tensor patterns = values.narrow(1, 1, images.size(1));
    return {stamped(images.unsqueeze(0), masks.unsqueeze(1), patterns.unsqueeze(1)).flatten(0, 1),
            masks.sum({1, 2, 3})};
  }
  at::Tensor sizes(const at::Tensor& raw) const override {
    return squashed(raw.detach().select(1, 0)).to(at::kDouble).sum({1, 2}).to(at::kCPU);
  }

 private:
  /// Maps raw numbers to [0, 1].
  static at::Tensor squashed(const at::Tensor& raw) { return raw.tanh().div(2).add(0.5); }
};

}  // namespace backstop::neural_cleanse
