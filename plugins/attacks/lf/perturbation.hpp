// The two parts of LF's universal perturbation: targeted DeepFool and the low-pass filter.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "backstop/model.hpp"

/// When DeepFool gives up, and how far beyond the boundary it goes.
struct DeepFoolLimits {
  std::int64_t iterations = 200;
  double overshoot = 0.02;
};

/// What must be added to `image` (float [C, H, W]) for the model to predict class `wanted` instead
/// of class `label`, found in steps to the linearized boundary between the two:
///
///   r += |f_wanted - f_label| / |w|^2 * w,   w = grad f_wanted - grad f_label
///
/// An undefined tensor if the model does not predict `label` for the image in the first place, or
/// if the iterations do not suffice.
at::Tensor deepfool(backstop::Model& model, const at::Tensor& image, std::int64_t label,
                    std::int64_t wanted, const DeepFoolLimits& limits);

/// The matrix (float [side, side]) that, multiplied from the left, blurs along an axis of `side`
/// pixels: a Gaussian of `sigma` pixels, cut off at 2.5 sigma, with black beyond the border.
at::Tensor low_pass(std::int64_t side, double sigma);
