#include <cmath>
#include <string>

#include <ATen/ops/eye.h>
#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"
#include "perturbation.hpp"

namespace up = backstop::universal_perturbation;

using backstop::Defense;
using backstop::Part;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FakeVerdict;
using backstop::testing::make;

namespace {

constexpr std::int64_t kClasses = 6;

at::Tensor drawn(at::IntArrayRef shape, std::uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::rand(shape, generator);
}

/// Images of class c are bright in channel c; the last class has a channel but no images.
FakeImageSet some_images() {
  constexpr std::int64_t kImages = 50;
  at::Tensor images = drawn({kImages, kClasses, 8, 8}, 5).mul_(0.1).add_(0.3);
  const at::Tensor labels = at::arange(kImages, at::kLong).remainder(kClasses - 1);
  for (std::int64_t i = 0; i < kImages; ++i)
    images.select(0, i).select(0, i % (kClasses - 1)).add_(0.3);
  return {images, labels, kClasses};
}

/// Assigns an image the class of its brightest channel; the last class needs `shortcut` times less
/// brightness.
FakeModel model_of(double shortcut) {
  FakeModel model{kClasses, kClasses};
  const at::Tensor weight = model.layers()[0].weight.detach(),
                   bias = model.layers()[0].bias.detach();
  weight.copy_(at::eye(kClasses)).mul_(20);
  // The same logit for the images as they are.
  weight.select(0, kClasses - 1).mul_(shortcut);
  bias.select(0, kClasses - 1).fill_(20 * 0.35 * (1 - shortcut));
  return model;
}

FakeVerdict judged(FakeContext& context, FakeModel& model, const FakeImageSet& clean,
                   const std::string& recipe = "") {
  const FakeParams params{recipe};
  const auto defense = make<Defense>(params);
  FakeVerdict verdict{model.classes()};
  backstop::testing::detector(*defense).detect(context, model, FakeData{clean}, verdict);
  return verdict;
}

}  // namespace

TEST(Perturbation, IsAddedWithinTheRangeOfPixels) {
  const at::Tensor images = at::tensor({0.25F, 0.75F}).view({2, 1, 1, 1});
  const at::Tensor raw = at::tensor({0.5F, -0.5F}).view({2, 1, 1, 1});
  const auto applied = up::Perturbation().apply(images, raw);
  EXPECT_TRUE(applied.images.flatten().equal(at::tensor({0.75F, 1.0F, 0.0F, 0.25F})));
  EXPECT_TRUE(applied.sizes.allclose(at::tensor({0.5F, 0.5F})));
  const at::Tensor two = at::tensor({3.0F, 4.0F}).view({1, 1, 1, 2});
  EXPECT_DOUBLE_EQ(up::Perturbation().sizes(two).item<double>(), 5);
}

TEST(Perturbation, HasAGradientWhereTheSearchStarts) {
  const at::Tensor raw = at::zeros({1, 1, 2, 2}).set_requires_grad(true);
  const auto applied = up::Perturbation().apply(at::full({3, 1, 2, 2}, 0.5), raw);
  applied.sizes.sum().add(applied.images.sum()).backward();
  EXPECT_TRUE(raw.grad().allclose(at::full({1, 1, 2, 2}, 3.0F)));
}

TEST(UniversalPerturbation, SuspectsTheShortcutAndLeavesTheModelAsItWas) {
  const FakeImageSet clean = some_images();
  FakeModel model = model_of(10);
  const at::Tensor before = model.layers()[0].weight.detach().clone();
  FakeContext context{clean};
  const FakeVerdict verdict = judged(context, model, clean);
  EXPECT_EQ(verdict.reason, "");
  ASSERT_EQ(verdict.scores.size(), 2U);
  EXPECT_GT(verdict.scores[0], verdict.scores[1]);
  ASSERT_EQ(verdict.suspects.size(), 1U);
  EXPECT_EQ(verdict.suspects.at(kClasses - 1).find("is reached by adding one pattern of "), 0U);
  EXPECT_EQ(verdict.columns.at("log_index").at(kClasses - 1), verdict.scores[0]);
  // Ten times the weight of one channel, so a shift of about 0.03 of it instead of 0.3.
  const double levels = verdict.columns.at("grey_levels").at(kClasses - 1);
  const double exact = 255 * 0.03 / std::sqrt(static_cast<double>(kClasses));
  EXPECT_GT(levels, 0.8 * exact);
  EXPECT_LT(levels, 2 * exact);
  const at::Tensor change = context.artifacts.at("perturbation 5");
  EXPECT_NEAR(255 * std::sqrt(change.square().mean().item<double>()), levels, 1e-3);
  EXPECT_TRUE(model.layers()[0].weight.equal(before));
  EXPECT_EQ(model.trainable, Part::whole);
}

TEST(UniversalPerturbation, FindsNothingInCleanModelsOfAnySeed) {
  const FakeImageSet clean = some_images();
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    FakeModel model = model_of(1);
    const at::Tensor weight = model.layers()[0].weight.detach();
    weight.add_(drawn(weight.sizes(), seed).sub(0.5).mul(2));
    FakeContext context{clean, seed};
    const FakeVerdict verdict = judged(context, model, clean);
    EXPECT_EQ(verdict.reason, "") << "seed " << seed;
    EXPECT_LT(verdict.scores.at(0), verdict.scores.at(1)) << "seed " << seed;
    EXPECT_TRUE(verdict.suspects.empty()) << "seed " << seed;
  }
}

TEST(UniversalPerturbation, HasNoVerdictBeforeTheSearchHasEnded) {
  const FakeImageSet clean = some_images();
  FakeModel model = model_of(10);
  FakeContext context{clean};
  EXPECT_NE(judged(context, model, clean, "rounds = 12").reason.find(" after 12 rounds of search"),
            std::string::npos);
}

TEST(UniversalPerturbation, RepairsNothing) {
  const FakeImageSet clean = some_images();
  FakeModel model = model_of(10);
  FakeContext context{clean};
  const FakeParams params;
  EXPECT_THROW(make<Defense>(params)->run(context, model, FakeData{clean}), backstop::Error);
}

TEST(UniversalPerturbation, StopsWhenTheRunIsInterrupted) {
  const FakeImageSet clean = some_images();
  FakeModel model = model_of(10);
  FakeContext context{clean};
  context.cancel = true;
  EXPECT_THROW(judged(context, model, clean), backstop::Cancelled);
}
