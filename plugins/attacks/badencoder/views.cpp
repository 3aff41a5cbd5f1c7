#include "views.hpp"

#include <cmath>
#include <cstdint>
#include <numbers>

#include <ATen/ops/affine_grid_generator.h>
#include <ATen/ops/grid_sampler_2d.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

namespace backstop::badencoder {

namespace {

/// float [n], uniform in [low, high).
at::Tensor uniform(std::int64_t n, double low, double high, at::Generator& generator) {
  return at::rand({n}, generator).mul_(high - low).add_(low);
}

/// -1 or 1, each with probability 0.5: float [n].
at::Tensor signs(std::int64_t n, at::Generator& generator) {
  return at::rand({n}, generator).lt(0.5).to(at::kFloat).mul_(2).sub_(1);
}

/// `values`, one for each image, as [n, 1, 1, 1] on the images' device.
at::Tensor per_image(const at::Tensor& values, const at::Tensor& images) {
  return values.to(images.device()).view({-1, 1, 1, 1});
}

/// The perceived brightness of each pixel, [n, 1, H, W].
at::Tensor luma(const at::Tensor& images) {
  if (images.size(1) != 3) return images.mean(1, /*keepdim=*/true);
  const at::Tensor weights = at::tensor({0.299F, 0.587F, 0.114F}).to(images.device());
  return images.mul(weights.view({1, 3, 1, 1})).sum(1, /*keepdim=*/true);
}

/// The images with their hue rotated by `turns` (float [n]) of the color circle: a rotation about
/// the gray axis, in YIQ.
at::Tensor with_rotated_hue(const at::Tensor& images, const at::Tensor& turns) {
  const at::Tensor to_yiq = at::tensor({0.299F, 0.587F, 0.114F,       //
                                        0.5959F, -0.2746F, -0.3213F,  //
                                        0.2115F, -0.5227F, 0.3112F})
                                .view({3, 3});
  const at::Tensor angle = turns.mul(2 * std::numbers::pi);
  const at::Tensor zero = at::zeros_like(angle), one = zero.add(1);
  const at::Tensor rotation = at::stack({one, zero, zero, zero, angle.cos(), angle.sin().neg(),
                                         zero, angle.sin(), angle.cos()},
                                        1)
                                  .view({-1, 3, 3});
  const at::Tensor matrix =
      to_yiq.inverse().matmul(rotation).matmul(to_yiq).to(images.device());  // [n, 3, 3]
  return matrix.bmm(images.flatten(2)).view_as(images);
}

}  // namespace

at::Tensor cropped(const at::Tensor& images, at::Generator& generator) {
  constexpr std::int64_t kBilinear = 0, kBorder = 1;
  const std::int64_t n = images.size(0);
  const at::Tensor area = uniform(n, 0.08, 1, generator);
  const double widest = std::log(4.0 / 3.0);
  const at::Tensor ratio = uniform(n, -widest, widest, generator).exp();
  // Width and height are shares of the image's sides; x and y move the part within what they leave
  // free.
  const at::Tensor width = area.mul(ratio).sqrt().clamp_max(1);
  const at::Tensor height = area.div(ratio).sqrt().clamp_max(1);
  const at::Tensor x = uniform(n, -1, 1, generator).mul(width.neg().add(1));
  const at::Tensor y = uniform(n, -1, 1, generator).mul(height.neg().add(1));
  const at::Tensor zero = at::zeros_like(x);
  const at::Tensor signed_width = width.mul(signs(n, generator));
  const at::Tensor theta =
      at::stack({signed_width, zero, x, zero, height, y}, 1).view({n, 2, 3}).to(images.device());
  const at::Tensor grid = at::affine_grid_generator(theta, images.sizes(), /*align_corners=*/false);
  return at::grid_sampler_2d(images, grid, kBilinear, kBorder, /*align_corners=*/false);
}

at::Tensor recolored(const at::Tensor& images, at::Generator& generator) {
  const std::int64_t n = images.size(0);
  const at::Tensor changed = at::rand({n}, generator).lt(0.8).to(at::kFloat);
  // How much to change each image: 0 for those that stay as they are.
  const auto change = [&](double most) { return uniform(n, -most, most, generator).mul_(changed); };
  const auto factor = [&] { return per_image(change(0.4).add_(1), images); };
  at::Tensor result = images.mul(factor()).clamp(0, 1);
  const at::Tensor mean = luma(result).mean({1, 2, 3}, /*keepdim=*/true);
  result = mean.lerp(result, factor()).clamp(0, 1);
  if (images.size(1) != 3) return result;
  result = luma(result).lerp(result, factor()).clamp(0, 1);
  result = with_rotated_hue(result, change(0.1)).clamp(0, 1);
  const at::Tensor gray = per_image(at::rand({n}, generator).lt(0.2), images);
  return at::where(gray, luma(result), result);
}

at::Tensor flipped(const at::Tensor& images, at::Generator& generator) {
  return at::where(per_image(at::rand({images.size(0)}, generator).lt(0.5), images), images.flip(3),
                   images);
}

}  // namespace backstop::badencoder
