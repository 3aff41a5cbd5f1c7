#include "host/engine/data/image_quality.hpp"

#include <cmath>
#include <utility>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

ImageStore store(const at::Tensor& images) {
  return {images, at::zeros({images.size(0)}, at::kLong), 1, c10::kCPU};
}

at::Tensor noise(std::uint64_t seed, at::IntArrayRef shape) {
  at::Generator generator = make_generator(seed);
  return at::rand(shape, generator, at::TensorOptions(at::kFloat)).mul(256).floor().to(at::kByte);
}

// The definition, window by window.
double ssim_of_plane(const at::Tensor& a, const at::Tensor& b, std::int64_t window) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const at::Tensor d = at::arange(window, at::kDouble) - (window - 1) / 2;
  at::Tensor weights = at::exp(-(d.square().unsqueeze(1) + d.square()) / (2 * 1.5 * 1.5));
  weights = weights / weights.sum();
  double sum = 0;
  std::int64_t windows = 0;
  for (std::int64_t i = 0; i + window <= x.size(0); ++i) {
    for (std::int64_t j = 0; j + window <= x.size(1); ++j, ++windows) {
      const at::Tensor u = x.narrow(0, i, window).narrow(1, j, window);
      const at::Tensor v = y.narrow(0, i, window).narrow(1, j, window);
      const double mu = (weights * u).sum().item<double>(), mv = (weights * v).sum().item<double>();
      const double vu = (weights * (u - mu).square()).sum().item<double>();
      const double vv = (weights * (v - mv).square()).sum().item<double>();
      const double cov = (weights * (u - mu) * (v - mv)).sum().item<double>();
      const double c1 = 2.55 * 2.55, c2 = 7.65 * 7.65;
      sum += (2 * mu * mv + c1) * (2 * cov + c2) / ((mu * mu + mv * mv + c1) * (vu + vv + c2));
    }
  }
  return sum / static_cast<double>(windows);
}

TEST(ImageQuality, FollowsTheDefinition) {
  for (const auto& [side, window] : {std::pair{8, 7}, {9, 9}, {16, 11}}) {
    const at::Tensor clean = noise(1, {2, 3, side, side + 1});
    const at::Tensor triggered =
        (clean.to(at::kFloat) * 0.8 + 0.2 * noise(2, clean.sizes())).round().to(at::kByte);
    double expected = 0, psnr = 0;
    for (std::int64_t n = 0; n < 2; ++n) {
      for (std::int64_t c = 0; c < 3; ++c)
        expected += ssim_of_plane(clean[n][c], triggered[n][c], window) / 6;
      const double error =
          (clean[n].to(at::kDouble) - triggered[n].to(at::kDouble)).square().mean().item<double>();
      psnr += 10 * std::log10(255.0 * 255.0 / error) / 2;
    }
    const auto quality = image_quality(store(clean), store(triggered));
    EXPECT_NEAR(quality["ssim"].get<double>(), expected, 1e-4) << side;
    EXPECT_NEAR(quality["psnr"].get<double>(), psnr, 1e-6) << side;
    EXPECT_EQ(quality["changed_images"], 2);
  }
}

TEST(ImageQuality, AveragesPsnrOverChangedImagesOnly) {
  const at::Tensor clean = at::full({2, 1, 16, 16}, 100, at::kByte);
  at::Tensor triggered = clean.clone();
  triggered[1].fill_(110);
  const auto quality = image_quality(store(clean), store(triggered));
  EXPECT_NEAR(quality["psnr"].get<double>(), 10 * std::log10(65025.0 / 100), 1e-9);
  EXPECT_EQ(quality["changed_images"], 1);
  EXPECT_EQ(quality["images"], 2);
}

TEST(ImageQuality, HasNoPsnrIfNothingChanges) {
  const at::Tensor clean = noise(3, {3, 3, 32, 32});
  const auto quality = image_quality(store(clean), store(clean));
  EXPECT_TRUE(quality["psnr"].is_null());
  EXPECT_NEAR(quality["ssim"].get<double>(), 1, 1e-6);
  EXPECT_EQ(quality["changed_images"], 0);
}

}  // namespace
}  // namespace backstop::engine
