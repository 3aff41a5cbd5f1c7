#include "rotation.hpp"

#include <cmath>
#include <cstdint>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/rot90.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

using backstop::rotation::rotated;

namespace {

at::Tensor random_images(at::IntArrayRef shape) {
  at::Generator generator = at::detail::createCPUGenerator(3);
  return at::rand(shape, generator);
}

}  // namespace

TEST(Rotation, ByZeroDegreesIsTheIdentity) {
  for (const std::int64_t side : {28, 32, 96}) {
    const at::Tensor images = random_images({2, 3, side, side + 5});
    EXPECT_TRUE(rotated(images, at::zeros({2})).allclose(images, 0, 1e-5)) << side;
  }
}

TEST(Rotation, ByQuarterTurnsIsCounterclockwise) {
  const at::Tensor images = random_images({4, 1, 28, 28});
  const at::Tensor out = rotated(images, at::tensor({90.F, 180.F, 270.F, -90.F}));
  for (const std::int64_t i : {0, 1, 2, 3}) {
    const at::Tensor expected = at::rot90(images.select(0, i), i < 3 ? i + 1 : -1, {1, 2});
    EXPECT_TRUE(out.select(0, i).allclose(expected, 0, 1e-4)) << i;
  }
}

TEST(Rotation, KeepsShapesInImagesThatAreNotSquare) {
  // In an image of 3 x 5 pixels the right neighbor of the center moves above it.
  at::Tensor image = at::zeros({1, 1, 3, 5});
  image[0][0][1][3] = 1;
  at::Tensor expected = at::zeros({1, 1, 3, 5});
  expected[0][0][0][2] = 1;
  EXPECT_TRUE(rotated(image, at::tensor({90.F})).allclose(expected, 0, 1e-5));
  // What moves beyond the upper and lower edge is lost; what comes from outside is black.
  const at::Tensor white = rotated(at::ones({1, 1, 3, 5}), at::tensor({90.F}));
  at::Tensor middle = at::zeros({1, 1, 3, 5});
  middle.narrow(3, 1, 3).fill_(1);
  EXPECT_TRUE(white.allclose(middle, 0, 1e-5));
}

TEST(Rotation, InterpolatesLinearlyBetweenPixels) {
  at::Tensor image = at::zeros({1, 1, 3, 3});
  image[0][0][1][2] = 1;
  const at::Tensor out = rotated(image, at::tensor({45.F}))[0][0];
  // The pixel above the right one looks at (1.414, 0) from the center: 0.586 of it is inside.
  EXPECT_NEAR(out[0][2].item<float>(), 2 - std::sqrt(2.), 1e-5);
  // The one above the center looks at (0.707, -0.707).
  EXPECT_NEAR(out[0][1].item<float>(), std::sqrt(0.5) * (1 - std::sqrt(0.5)), 1e-5);
  EXPECT_NEAR(out[1][1].item<float>(), 0, 1e-6);
}

TEST(Rotation, KeepsGradients) {
  const at::Tensor images = random_images({2, 1, 4, 4}).set_requires_grad(true);
  rotated(images, at::tensor({90.F, 0.F})).narrow(2, 0, 1).sum().backward();
  // The upper row of the first result is the right column of the first image.
  at::Tensor expected = at::zeros({2, 1, 4, 4});
  expected[0].narrow(2, 3, 1).fill_(1);
  expected[1].narrow(1, 0, 1).fill_(1);
  EXPECT_TRUE(images.grad().allclose(expected, 0, 1e-5));
}

TEST(Rotation, AcceptsNoImages) {
  EXPECT_EQ(rotated(at::zeros({0, 3, 4, 4}), at::zeros({0})).sizes(),
            at::IntArrayRef({0, 3, 4, 4}));
}
