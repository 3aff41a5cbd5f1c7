// Rotation of images, for attacks that train on slightly rotated images.
#pragma once

#include <cstdint>
#include <numbers>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/grid_sampler_2d.h>
#include <ATen/ops/stack.h>

namespace backstop::rotation {

/// `images` (float [n, C, H, W]), each rotated counterclockwise about its center by its own angle
/// in `degrees` (float [n], on the same device). Interpolates linearly between pixels; what comes
/// from outside the image is black. Gradients flow through.
inline at::Tensor rotated(const at::Tensor& images, const at::Tensor& degrees) {
  constexpr double kDegree = std::numbers::pi / 180;
  constexpr std::int64_t kBilinear = 0, kZeros = 0;
  const std::int64_t height = images.size(2), width = images.size(3);
  const at::Tensor angle = degrees.mul(kDegree).view({-1, 1, 1});
  const at::Tensor cosine = angle.cos(), sine = angle.sin();
  // Where each pixel of the result comes from, in half pixels from the center. Rotating in pixels,
  // not in shares of the sides, keeps shapes in images that are not square.
  const auto from_center = [&](std::int64_t side) {
    return at::arange(1 - side, side, 2, images.options());
  };
  const at::Tensor x = from_center(width);
  const at::Tensor y = from_center(height).unsqueeze(1);
  const at::Tensor grid =
      at::stack({x.mul(cosine).sub(y.mul(sine)).div(static_cast<double>(width)),
                 x.mul(sine).add(y.mul(cosine)).div(static_cast<double>(height))},
                3);
  return at::grid_sampler_2d(images, grid, kBilinear, kZeros, /*align_corners=*/false);
}

}  // namespace backstop::rotation
