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

/// Class 1 if the first channel reaches 0.5, class 0 otherwise.
FakeModel bright_or_dark() {
  FakeModel model{1, 2};
  model.layers()[0].weight.detach().copy_(at::tensor({0.0F, 2.0F}).view({2, 1}));
  model.layers()[0].bias.detach().copy_(at::tensor({1.0F, 0.0F}));
  return model;
}

FakeImageSet pixels(std::initializer_list<float> values) {
  const auto n = static_cast<std::int64_t>(values.size());
  return {at::tensor(std::vector<float>(values)).view({n, 1, 1, 1}), at::zeros({n}, at::kLong), 2};
}

at::Tensor scored(const char* recipe, const FakeImageSet& clean, const FakeImageSet& images) {
  FakeModel model = bright_or_dark();
  FakeContext context{clean};
  const FakeParams params{recipe};
  const auto defense = make<Defense>(params);
  auto& detector = input_detector(*defense);
  EXPECT_EQ(detector.prepare(context, model, FakeData{clean}), 0.5);
  return detector.scores(context, model, all_images(images));
}

}  // namespace

TEST(ScaleUp, ScoreIsTheShareOfScalesThatKeepThePrediction) {
  // Bright stays bright; black stays black; 0.06 is bright from the factor 9 on, 0.2 from 3 on.
  const at::Tensor scores = scored("", pixels({0.1F}), pixels({0.9F, 0.0F, 0.06F, 0.2F}));
  EXPECT_TRUE(scores.allclose(at::tensor({1.0F, 1.0F, 0.6F, 0.0F})));
}

TEST(ScaleUp, StandardizedByPredictedClass) {
  // Predicted 0, with SPC 1, 0.6, 0 and 0; predicted 1, with SPC 1 and 1.
  const FakeImageSet clean = pixels({0.0F, 0.06F, 0.2F, 0.3F, 0.9F, 0.8F});
  const at::Tensor scores = scored("standardized = true", clean, pixels({0.9F, 0.06F}));
  EXPECT_NEAR(scores.select(0, 0).item<double>(), 0, 1e-6);  // the mean of its class
  const double deviation = std::sqrt((0.36 + 0.04 + 0.16 + 0.16) / 4);
  EXPECT_NEAR(scores.select(0, 1).item<double>(), 0.2 / deviation, 1e-5);
}

TEST(ScaleUp, RepairsNothing) {
  const FakeImageSet clean = pixels({0.1F});
  FakeModel model = bright_or_dark();
  FakeContext context{clean};
  const FakeParams params;
  EXPECT_THROW(make<Defense>(params)->run(context, model, FakeData{clean}), backstop::Error);
}
