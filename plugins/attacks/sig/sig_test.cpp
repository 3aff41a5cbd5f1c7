#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::Role;
using backstop::Threat;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeEditor;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::random_images;

namespace {

at::Tensor triggered(const char* recipe, const at::Tensor& images, Phase phase = Phase::test) {
  const FakeParams params{recipe};
  FakeContext context;
  return make<Attack>(params)->apply(context, images, phase);
}

// What a set of 40 images of 4 classes is poisoned with.
std::map<std::int64_t, FakeEditor::Entry> poisoned(const Threat& threat, std::uint64_t seed = 0) {
  const FakeParams params;
  FakeContext context{seed};
  const auto attack = make<Attack>(params);
  const FakeImageSet set = random_images(40, 3, 16);
  attack->prepare(context, threat, set);
  FakeEditor editor{set};
  attack->poison(context, threat, editor);
  return editor.written;
}

std::string refusal(const Threat& threat) {
  try {
    poisoned(threat);
  } catch (const backstop::ParameterError& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

BACKSTOP_TEST_ATTACK(Sig, {.all_to_all = false},
                     {.recipe = "delta = 0.3\ntest_delta = 0.5", .all_to_all = false});

TEST(Sig, AddsASineAcrossTheColumns) {
  // One wave over four columns: 0, 1, 0, -1.
  const at::Tensor out = triggered("delta = 0.25\nfrequency = 1.0", at::full({1, 1, 2, 4}, 0.5));
  const at::Tensor row = at::tensor({0.5F, 0.75F, 0.5F, 0.25F});
  EXPECT_TRUE(out.allclose(row.expand({1, 1, 2, 4}), 0, 1e-6));
}

TEST(Sig, StaysWithinWhiteAndBlack) {
  const char* recipe = "delta = 0.25\nfrequency = 1.0";
  EXPECT_TRUE(triggered(recipe, at::zeros({1, 1, 1, 4}))
                  .allclose(at::tensor({0.F, 0.25F, 0.F, 0.F}).view({1, 1, 1, 4}), 0, 1e-6));
  EXPECT_TRUE(triggered(recipe, at::ones({1, 1, 1, 4}))
                  .allclose(at::tensor({1.F, 1.F, 1.F, 0.75F}).view({1, 1, 1, 4}), 0, 1e-6));
}

TEST(Sig, HasSixWavesOf40LevelsByDefault) {
  for (const std::int64_t side : {28, 32, 96}) {
    for (const std::int64_t channels : {1, 3}) {
      const at::Tensor images = at::full({2, channels, side, side}, 0.5);
      const at::Tensor out = triggered("", images);
      EXPECT_EQ(out.sizes(), images.sizes());
      EXPECT_EQ(out.scalar_type(), at::kFloat);
      for (std::int64_t column = 0; column < side; ++column) {
        const double wave = 40.0 / 255 *
                            std::sin(2 * std::numbers::pi * 6 * static_cast<double>(column) /
                                     static_cast<double>(side));
        EXPECT_TRUE(
            out.select(3, column).allclose(at::full({2, channels, side}, 0.5 + wave), 0, 1e-6))
            << "column " << column << " of " << side;
      }
    }
  }
}

TEST(Sig, TestsWithAnotherStrengthIfRequested) {
  const char* recipe = "delta = 0.25\ntest_delta = 0.5\nfrequency = 1.0";
  const at::Tensor gray = at::full({1, 1, 1, 4}, 0.5);
  EXPECT_NEAR(triggered(recipe, gray, Phase::train).max().item<float>(), 0.75, 1e-6);
  EXPECT_NEAR(triggered(recipe, gray, Phase::test).max().item<float>(), 1, 1e-6);
  EXPECT_TRUE(triggered("", gray, Phase::train).equal(triggered("", gray, Phase::test)));
}

TEST(Sig, ChangesOnlyImagesOfTheTargetClassAndKeepsTheirLabels) {
  const auto written = poisoned({.target = 2, .classes = 4, .poison_ratio = 0.2});
  EXPECT_EQ(written.size(), 8U);  // of all 40, not of the 10 of the class
  const at::Tensor expected = triggered("", all_images(random_images(40, 3, 16)), Phase::train);
  for (const auto& [position, entry] : written) {
    EXPECT_EQ(position % 4, 2);
    EXPECT_EQ(entry.label, 2);
    EXPECT_EQ(entry.role, Role::poison);
    EXPECT_TRUE(entry.image.equal(expected[position]));
  }
}

TEST(Sig, DrawsTheImagesFromTheContextsGenerator) {
  const auto positions = [](std::uint64_t seed) {
    std::vector<std::int64_t> result;
    for (const auto& [position, entry] :
         poisoned({.target = 1, .classes = 4, .poison_ratio = 0.125}, seed))
      result.push_back(position);
    return result;
  };
  EXPECT_EQ(positions(1), positions(1));
  EXPECT_NE(positions(1), positions(2));
}

TEST(Sig, MayChangeTheWholeClassButNoMore) {
  EXPECT_EQ(poisoned({.target = 3, .classes = 4, .poison_ratio = 0.25}).size(), 10U);
  EXPECT_EQ(refusal({.target = 3, .classes = 4, .poison_ratio = 0.275}),
            "a `poison_ratio` of 0.275000 is 11 of 40 images, but class 3 has only 10");
}

TEST(Sig, RefusesARatioThatPoisonsNothing) {
  EXPECT_EQ(refusal({.classes = 4, .poison_ratio = 0.001}),
            "a poison_ratio of 0.001000 of 40 images is no image");
}

TEST(Sig, RefusesAllToAll) {
  EXPECT_EQ(
      refusal({.all_to_all = 1, .classes = 4, .poison_ratio = 0.1}),
      "`labels` is \"all-to-all\", but sig changes images of one class and keeps their labels");
}

TEST(Sig, RefusesMoreWavesThanColumnsCanShow) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  EXPECT_NO_THROW(attack->prepare(context, {}, random_images(1, 1, 13)));
  try {
    attack->prepare(context, {}, random_images(1, 1, 12));
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(e.what(),
                 "`frequency` must be less than half of the images' 12 columns, got 6.000000");
  }
}
