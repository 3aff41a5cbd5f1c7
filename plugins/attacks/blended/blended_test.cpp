#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"
#include "testing.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::FakeState;
using backstop::testing::make;
using backstop::testing::random_images;

namespace {

// The pattern that an attack draws for a set of images.
at::Tensor pattern_of(const std::string& recipe, const FakeImageSet& set, std::uint64_t seed = 0) {
  const FakeParams params{recipe};
  FakeContext context{seed};
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, set);
  FakeState state;
  attack->save(state);
  return state.tensor("pattern");
}

using BlendedImage = backstop::pattern::PngTest;

}  // namespace

BACKSTOP_TEST_ATTACK(Blended, {}, {.recipe = "pattern = \"smooth\"\ntest_alpha = 0.9"},
                     {.recipe = "alpha = 1.0"});

TEST(Blended, MixesImageAndPattern) {
  const FakeParams params{"alpha = 0.25\ntest_alpha = 0.5"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  FakeState state;
  state.tensor("pattern", at::tensor({1.F, 0.F, 0.5F, 1.F}).view({1, 2, 2}));
  attack->load(context, {}, state);
  const at::Tensor image = at::tensor({0.F, 1.F, 0.5F, 1.F}).view({1, 1, 2, 2});
  EXPECT_TRUE(attack->apply(context, image, Phase::train)
                  .equal(at::tensor({0.25F, 0.75F, 0.5F, 1.F}).view({1, 1, 2, 2})));
  EXPECT_TRUE(attack->apply(context, image, Phase::test)
                  .equal(at::tensor({0.5F, 0.5F, 0.5F, 1.F}).view({1, 1, 2, 2})));
}

TEST(Blended, TestsWithTheStrengthOfTrainingByDefault) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  const FakeImageSet set = random_images(2, 3);
  attack->prepare(context, {}, set);
  EXPECT_TRUE(attack->apply(context, all_images(set), Phase::test)
                  .equal(attack->apply(context, all_images(set), Phase::train)));
  const at::Tensor mixed = all_images(set).mul(0.8).add(pattern_of("", set), 0.2);
  EXPECT_TRUE(attack->apply(context, all_images(set), Phase::test).allclose(mixed, 0, 1e-6));
}

TEST(Blended, DrawsNoiseFromTheContextsGenerator) {
  const FakeImageSet set = random_images(1, 3, 32);
  for (const char* recipe : {"", "pattern = \"smooth\""}) {
    EXPECT_TRUE(pattern_of(recipe, set, 1).equal(pattern_of(recipe, set, 1)));
    EXPECT_FALSE(pattern_of(recipe, set, 1).equal(pattern_of(recipe, set, 2)));
  }
  const at::Tensor noise = pattern_of("", set);
  EXPECT_NEAR(noise.mean().item<float>(), 0.5, 0.05);
  EXPECT_FALSE(noise[0].equal(noise[1]));
}

TEST(Blended, DrawsSmoothNoiseWithoutSteps) {
  for (std::int64_t channels : {1, 3}) {
    const at::Tensor pattern = pattern_of("pattern = \"smooth\"", random_images(1, channels, 32));
    EXPECT_EQ(pattern.sizes(), at::IntArrayRef({channels, 32, 32}));
    EXPECT_EQ(pattern.min().item<float>(), 0);
    EXPECT_EQ(pattern.max().item<float>(), 1);
    // 31 pixels span 4 cells: a step of noise would be 1/3 on average.
    EXPECT_LT(pattern.diff(1, 1).abs().mean().item<float>(), 0.1);
    EXPECT_LT(pattern.diff(1, 2).abs().mean().item<float>(), 0.1);
  }
}

TEST(Blended, RefusesADamagedState) {
  const FakeParams params;
  FakeContext context;
  for (const at::Tensor& pattern : {at::ones({8, 8}), at::ones({3, 0, 8})}) {
    FakeState state;
    state.tensor("pattern", pattern);
    EXPECT_THROW(make<Attack>(params)->load(context, {}, state), backstop::EnvironmentError);
  }
}

TEST(Blended, ResizesThePatternToTheImages) {
  const FakeParams params{"alpha = 1.0"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  FakeState state;
  state.tensor("pattern", at::tensor({0.F, 0.F, 1.F, 1.F}).view({1, 1, 4}));
  attack->load(context, {}, state);
  const at::Tensor small = attack->apply(context, at::zeros({2, 1, 3, 2}), Phase::test);
  EXPECT_EQ(small.sizes(), at::IntArrayRef({2, 1, 3, 2}));
  EXPECT_LT(small[0][0][0][0].item<float>(), 0.2);
  EXPECT_GT(small[0][0][0][1].item<float>(), 0.8);
  const at::Tensor large = attack->apply(context, at::zeros({1, 1, 1, 8}), Phase::test);
  EXPECT_EQ(large[0][0][0][0].item<float>(), 0);
  EXPECT_EQ(large[0][0][0][7].item<float>(), 1);
}

TEST(Blended, RefusesImagesWithAnotherNumberOfChannels) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, random_images(1, 3));
  EXPECT_THROW(attack->apply(context, at::zeros({1, 1, 8, 8}), Phase::test),
               backstop::ParameterError);
}

TEST(Blended, RefusesAnImageThatIsMissingOrUnused) {
  for (const char* recipe : {"pattern = \"image\"", "image = \"a.png\""}) {
    const FakeParams params{recipe};
    EXPECT_THROW(make<Attack>(params), backstop::Error) << recipe;
  }
}

TEST_F(BlendedImage, IsReadInColor) {
  write_png(PNG_FORMAT_RGB, 1, 2, {255, 0, 51, 0, 255, 102});
  const FakeImageSet set{at::zeros({1, 3, 1, 2}), at::zeros({1}, at::kLong), 2};
  EXPECT_TRUE(pattern_of(recipe(), set)
                  .allclose(at::tensor({1.F, 0.F, 0.F, 1.F, 0.2F, 0.4F}).view({3, 1, 2})));
}

TEST_F(BlendedImage, IsNotReadAgainAfterLoading) {
  write_png(PNG_FORMAT_GRAY, 1, 1, {255});
  const FakeParams params{recipe()};
  FakeContext context;
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, random_images(1, 1));
  FakeState state;
  attack->save(state);
  std::filesystem::remove(file());
  const auto again = make<Attack>(params);
  again->load(context, {}, state);
  EXPECT_NEAR(again->apply(context, at::zeros({1, 1, 8, 8}), Phase::test).max().item<float>(), 0.2,
              1e-6);
}

TEST(Blended, FitsImagesOfEverySize) {
  for (const std::int64_t side : {28, 32, 96}) {
    for (const std::int64_t channels : {1, 3}) {
      const FakeParams params{"alpha = 1.0"};
      FakeContext context;
      const auto attack = make<Attack>(params);
      const FakeImageSet set = random_images(2, channels, side);
      attack->prepare(context, {}, set);
      const at::Tensor pattern = pattern_of("", set);
      EXPECT_EQ(pattern.sizes(), at::IntArrayRef({channels, side, side}));
      EXPECT_TRUE(attack->apply(context, all_images(set), Phase::train)
                      .equal(pattern.expand({2, channels, side, side})));
    }
  }
}
