#include "host/engine/data/image_quality.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

namespace backstop::engine {

namespace {

constexpr double kPeak = 255;

/// The Gaussian window as a matrix that maps `side` pixels to their `side - window + 1` local
/// means.
at::Tensor window_matrix(std::int64_t side, std::int64_t window) {
  constexpr double kDeviation = 1.5;
  const at::Tensor offsets = at::arange(window, at::kDouble) - (window - 1) / 2;
  at::Tensor weights = at::exp(-offsets.square() / (2 * kDeviation * kDeviation));
  weights = weights / weights.sum();
  const std::int64_t means = side - window + 1;
  at::Tensor matrix = at::zeros({means, side}, at::kDouble);
  for (std::int64_t i = 0; i < means; ++i) matrix[i].narrow(0, i, window).copy_(weights);
  return matrix.to(at::kFloat);
}

/// Structural similarity, float [n], of two sets of images, float [n, C, H, W] in 0 .. 255.
at::Tensor ssim(const at::Tensor& x, const at::Tensor& y) {
  constexpr double kC1 = 0.01 * kPeak * 0.01 * kPeak, kC2 = 0.03 * kPeak * 0.03 * kPeak;
  constexpr std::int64_t kWindow = 11;
  const std::int64_t smaller_side = std::min(x.size(2), x.size(3));
  const std::int64_t window = std::min(kWindow, smaller_side - (smaller_side + 1) % 2);
  const at::Tensor rows = window_matrix(x.size(2), window);
  const at::Tensor columns = window_matrix(x.size(3), window).t();
  const auto local = [&](const at::Tensor& values) {
    return at::matmul(at::matmul(rows, values), columns);
  };
  const at::Tensor mean_x = local(x), mean_y = local(y);
  const at::Tensor variance_x = local(x * x) - mean_x * mean_x;
  const at::Tensor variance_y = local(y * y) - mean_y * mean_y;
  const at::Tensor covariance = local(x * y) - mean_x * mean_y;
  const at::Tensor map =
      (2 * mean_x * mean_y + kC1) * (2 * covariance + kC2) /
      ((mean_x * mean_x + mean_y * mean_y + kC1) * (variance_x + variance_y + kC2));
  return map.mean({1, 2, 3});
}

}  // namespace

nlohmann::json image_quality(const ImageStore& clean, const ImageStore& triggered) {
  double psnr_sum = 0, ssim_sum = 0;
  std::int64_t changed = 0;
  constexpr std::int64_t kChunk = 1000;
  for (std::int64_t first = 0; first < clean.size(); first += kChunk) {
    const at::Tensor positions =
        at::arange(first, std::min(first + kChunk, clean.size()), at::kLong);
    // On the CPU, because GPUs may round the factors of a matrix product.
    const at::Tensor x = clean.pixels(positions).to(at::kCPU, at::kFloat);
    const at::Tensor y = triggered.pixels(positions).to(at::kCPU, at::kFloat);
    const at::Tensor error = (x - y).square().mean({1, 2, 3}).to(at::kDouble);
    const at::Tensor differing = error.index({error.gt(0)});
    psnr_sum += (10 * at::log10(kPeak * kPeak / differing)).sum().item<double>();
    ssim_sum += ssim(x, y).to(at::kDouble).sum().item<double>();
    changed += differing.numel();
  }
  nlohmann::json quality = {{"psnr", nullptr},
                            {"ssim", ssim_sum / static_cast<double>(clean.size())},
                            {"changed_images", changed},
                            {"images", clean.size()}};
  if (changed > 0) quality["psnr"] = psnr_sum / static_cast<double>(changed);
  return quality;
}

}  // namespace backstop::engine
