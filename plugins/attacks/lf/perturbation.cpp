#include "perturbation.hpp"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros_like.h>

at::Tensor deepfool(backstop::Model& model, const at::Tensor& image, std::int64_t label,
                    std::int64_t wanted, const DeepFoolLimits& limits) {
  at::Tensor moved = at::zeros_like(image);
  for (std::int64_t iteration = 0;; ++iteration) {
    const at::Tensor total = moved.mul(1 + limits.overshoot);
    const at::Tensor input = image.add(total).set_requires_grad(true);
    const c10::AutoGradMode gradients(true);
    const at::Tensor logits = model.forward(input.unsqueeze(0)).squeeze(0);
    const auto top = logits.argmax().item<std::int64_t>();
    if (iteration == 0 && top != label) return {};
    // Steps toward a class that never becomes the most likely one grow without bound.
    if (!std::isfinite(logits.sum().item<float>())) return {};
    if (top == wanted) return total;
    if (iteration == limits.iterations) return {};
    const at::Tensor margin = logits.select(0, wanted).sub(logits.select(0, label));
    margin.backward({}, false, false, at::TensorList(input));
    const at::Tensor& gradient = input.grad();
    const float step = std::abs(margin.item<float>()) / gradient.square().sum().item<float>();
    if (!std::isfinite(step)) return {};  // no pixel changes the margin
    moved.add_(gradient, step);
  }
}

at::Tensor low_pass(std::int64_t side, double sigma) {
  const std::int64_t radius = std::llround(2.5 * sigma);
  const auto weight = [&](const at::Tensor& distance) {
    return distance.div(sigma).square().mul(-0.5).exp();
  };
  const at::Tensor pixel = at::arange(side, at::kDouble);
  const at::Tensor distance = pixel.unsqueeze(1).sub(pixel);
  const at::Tensor taps = at::arange(-radius, radius + 1, at::kDouble);
  return weight(distance).mul(distance.abs().le(radius)).div(weight(taps).sum()).to(at::kFloat);
}
