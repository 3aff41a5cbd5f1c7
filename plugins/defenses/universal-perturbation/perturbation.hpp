// One change of all pixels that is added to every image, and its L2 norm as its size.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include "search.hpp"

namespace backstop::universal_perturbation {

/// `images` [n, C, H, W] with `change` [..., C, H, W], as pixels.
inline at::Tensor perturbed(const at::Tensor& images, const at::Tensor& change) {
  return images.add(change).clamp(0, 1);
}

/// Raw triggers [k, C, H, W] are the changes themselves.
class Perturbation final : public trigger_search::Form {
 public:
  at::Tensor start(const ImageSet& images, std::int64_t classes, at::Generator&) const override {
    return at::zeros({classes, images.channels(), images.height(), images.width()});
  }
  trigger_search::Applied apply(const at::Tensor& images, const at::Tensor& raw) const override {
    constexpr double kTiny = 1e-12;  // the root has no gradient at 0, where the search starts
    return {perturbed(images.unsqueeze(0), raw.unsqueeze(1)).flatten(0, 1),
            raw.square().sum({1, 2, 3}).add(kTiny).sqrt()};
  }
  at::Tensor sizes(const at::Tensor& raw) const override {
    return raw.detach().to(at::kDouble).square().sum({1, 2, 3}).sqrt().to(at::kCPU);
  }
};

}  // namespace backstop::universal_perturbation
