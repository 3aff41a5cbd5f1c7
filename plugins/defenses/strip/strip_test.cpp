#include <cmath>
#include <string>

#include <ATen/ops/eye.h>
#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Defense;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::input_detector;
using backstop::testing::make;

namespace {

constexpr std::int64_t kClasses = 4;

/// Image i is bright in channel i modulo 4 as much as `brightness` says.
FakeImageSet set_of(std::int64_t size, float brightness) {
  at::Tensor images = at::full({size, kClasses, 2, 2}, 0.1);
  for (std::int64_t i = 0; i < size; ++i)
    images.select(0, i).select(0, i % kClasses).fill_(brightness);
  return {images, at::arange(size, at::kLong).remainder(kClasses), kClasses};
}

/// The class of the brightest channel.
FakeModel brightest() {
  FakeModel model{kClasses, kClasses};
  model.layers()[0].weight.detach().copy_(at::eye(kClasses)).mul_(40);
  return model;
}

}  // namespace

TEST(Strip, ScoresHigherWhatNoOverlayChanges) {
  const FakeImageSet clean = set_of(80, 0.5);
  FakeModel model = brightest();
  FakeContext context{clean};
  const FakeParams params{"overlays = 40"};
  const auto defense = make<Defense>(params);
  auto& detector = input_detector(*defense);
  const double threshold = detector.prepare(context, model, FakeData{clean});
  // As bright as clean images, and far brighter than every overlay.
  const at::Tensor mild = detector.scores(context, model, clean.images(at::arange(4, at::kLong)));
  const FakeImageSet strong = set_of(4, 1.0);
  const at::Tensor triggered =
      detector.scores(context, model, strong.images(at::arange(4, at::kLong)));
  EXPECT_GT(triggered.min().item<double>(), mild.max().item<double>());
  EXPECT_GT(triggered.min().item<double>(), threshold);
  EXPECT_LT(mild.max().item<double>(), threshold);
}

TEST(Strip, ScoreIsTheMeanEntropyInBitsWithItsSignTurned) {
  const FakeImageSet clean = set_of(8, 0.5);
  FakeModel model{kClasses, kClasses};  // all classes alike
  FakeContext context{clean};
  const FakeParams params;
  const auto defense = make<Defense>(params);
  auto& detector = input_detector(*defense);
  // Half of the images are the overlays, and the entropies of the others do not spread.
  EXPECT_NEAR(detector.prepare(context, model, FakeData{clean}), -2, 1e-5);
  EXPECT_EQ(context.messages.size(), 1U);
  const at::Tensor scores = detector.scores(context, model, clean.images(at::arange(3, at::kLong)));
  EXPECT_EQ(scores.size(0), 3);
  EXPECT_NEAR(scores.max().item<double>(), -2, 1e-5);
}

TEST(Strip, MakesDoWithOneImage) {
  const FakeImageSet clean = set_of(1, 0.5);
  FakeModel model = brightest();
  FakeContext context{clean};
  const FakeParams params;
  const auto defense = make<Defense>(params);
  auto& detector = input_detector(*defense);
  const double threshold = detector.prepare(context, model, FakeData{clean});
  EXPECT_NEAR(
      detector.scores(context, model, clean.images(at::arange(1, at::kLong))).item<double>(),
      threshold, 1e-6);
  EXPECT_THROW(defense->run(context, model, FakeData{clean}), backstop::Error);
}

TEST(Strip, StopsWhenTheRunIsInterrupted) {
  const FakeImageSet clean = set_of(8, 0.5);
  FakeModel model = brightest();
  FakeContext context{clean};
  context.cancel = true;
  const FakeParams params;
  const auto defense = make<Defense>(params);
  EXPECT_THROW(input_detector(*defense).prepare(context, model, FakeData{clean}),
               backstop::Cancelled);
}
