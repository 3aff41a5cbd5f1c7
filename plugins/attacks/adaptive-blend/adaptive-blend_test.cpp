#include <algorithm>
#include <set>
#include <string>
#include <utility>
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
using backstop::testing::FakeState;
using backstop::testing::make;
using backstop::testing::random_images;

namespace {

// An attack, the set that it poisoned and what it wrote.
struct Poisoned {
  Poisoned(const std::string& recipe, const Threat& threat, FakeImageSet images,
           std::uint64_t seed = 0)
      : params(recipe), context(seed), set(std::move(images)), editor(set) {
    attack->prepare(context, threat, set);
    attack->poison(context, threat, editor);
  }
  std::size_t count(Role role) const {
    std::size_t count = 0;
    for (const auto& [position, entry] : editor.written) count += entry.role == role ? 1 : 0;
    return count;
  }

  FakeParams params;
  FakeContext context;
  decltype(make<Attack>(params)) attack = make<Attack>(params);
  FakeImageSet set;
  FakeEditor editor;
};

// Which of the side x side pieces of equal size of an image differ from the original, row by row.
// A piece must be changed as a whole, to what apply() gives, or not at all.
std::vector<bool> changed_pieces(const at::Tensor& image, const at::Tensor& original,
                                 const at::Tensor& whole, std::int64_t side) {
  std::vector<bool> result;
  const std::int64_t height = image.size(1) / side;
  const std::int64_t width = image.size(2) / side;
  for (std::int64_t row = 0; row < side; ++row) {
    for (std::int64_t column = 0; column < side; ++column) {
      const auto piece = [&](const at::Tensor& of) {
        return of.narrow(1, row * height, height).narrow(2, column * width, width);
      };
      result.push_back(!piece(image).equal(piece(original)));
      EXPECT_TRUE(piece(image).equal(piece(result.back() ? whole : original)));
    }
  }
  return result;
}

std::string refusal(const std::string& recipe, const Threat& threat = {}, std::int64_t side = 8) {
  const FakeParams params{recipe};
  FakeContext context;
  try {
    make<Attack>(params)->prepare(context, threat, random_images(10, 1, side));
  } catch (const backstop::Error& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

BACKSTOP_TEST_ATTACK(AdaptiveBlend, {.whole_trigger = false});

TEST(AdaptiveBlend, ShowsTheWholePatternMoreStronglyInTests) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  FakeState state;
  state.tensor("pattern", at::tensor({1.F, 0.F, 1.F, 0.F}).view({1, 2, 2}));
  attack->load(context, {}, state);
  const at::Tensor gray = at::full({1, 1, 2, 2}, 0.5);
  EXPECT_TRUE(
      attack->apply(context, gray, Phase::train)
          .allclose(at::tensor({0.575F, 0.425F, 0.575F, 0.425F}).view({1, 1, 2, 2}), 0, 1e-6));
  EXPECT_TRUE(attack->apply(context, gray, Phase::test)
                  .allclose(at::tensor({0.6F, 0.4F, 0.6F, 0.4F}).view({1, 1, 2, 2}), 0, 1e-6));
}

TEST(AdaptiveBlend, ShowsHalfOfThePiecesInTraining) {
  for (const std::int64_t side : {28, 32, 96}) {
    for (const std::int64_t channels : {1, 3}) {
      Poisoned run("", {.target = 2, .classes = 4, .poison_ratio = 0.25},
                   random_images(40, channels, side));
      const at::Tensor originals = all_images(run.set);
      const at::Tensor whole = run.attack->apply(run.context, originals, Phase::train);
      std::set<std::vector<bool>> kinds;
      for (const auto& [position, entry] : run.editor.written) {
        const auto pieces = changed_pieces(entry.image, originals[position], whole[position], 4);
        EXPECT_EQ(std::count(pieces.begin(), pieces.end(), true), 8);
        kinds.insert(pieces);
      }
      EXPECT_GT(kinds.size(), 15U);  // of 20 images: drawn anew for each
    }
  }
}

TEST(AdaptiveBlend, ShowsEveryPieceEquallyOftenInTraining) {
  Poisoned run("", {.classes = 4, .poison_ratio = 0.5}, random_images(400, 1, 4));
  const at::Tensor originals = all_images(run.set);
  const at::Tensor whole = run.attack->apply(run.context, originals, Phase::train);
  std::vector<int> shown(16, 0);
  for (const auto& [position, entry] : run.editor.written) {
    const auto pieces = changed_pieces(entry.image, originals[position], whole[position], 4);
    for (std::size_t i = 0; i < 16; ++i) shown[i] += pieces[i] ? 1 : 0;
  }
  for (const int times : shown) EXPECT_NEAR(times, 200, 50);  // five standard deviations
}

TEST(AdaptiveBlend, MasksAsManyPiecesAsAsked) {
  const auto shown = [](const std::string& recipe, std::int64_t side) {
    Poisoned run(recipe, {.classes = 4, .poison_ratio = 0.5}, random_images(8, 1, 12));
    const at::Tensor originals = all_images(run.set);
    const at::Tensor whole = run.attack->apply(run.context, originals, Phase::train);
    const auto& [position, entry] = *run.editor.written.begin();
    const auto pieces = changed_pieces(entry.image, originals[position], whole[position], side);
    return std::count(pieces.begin(), pieces.end(), true);
  };
  EXPECT_EQ(shown("mask_rate = 0.0", 4), 16);
  EXPECT_EQ(shown("mask_rate = 0.25", 4), 12);
  EXPECT_EQ(shown("mask_rate = 0.9", 4), 2);  // 14.4 masked, rounded
  EXPECT_EQ(shown("pieces = 9", 3), 4);       // 4.5 masked, rounded
  EXPECT_EQ(shown("pieces = 1\nmask_rate = 0.1", 1), 1);
}

TEST(AdaptiveBlend, CutsImagesWhoseSideIsNotAMultipleOfTheGrids) {
  // 7 columns in 2 pieces: 4 and 3.
  Poisoned run("pieces = 4\nmask_rate = 0.75\nalpha = 1.0", {.classes = 4, .poison_ratio = 0.5},
               {at::full({40, 1, 7, 7}, 2), at::arange(40, at::kLong).remainder(4), 4});
  std::set<std::int64_t> areas;
  for (const auto& [position, entry] : run.editor.written)
    areas.insert(entry.image.ne(2).sum().item<std::int64_t>());
  EXPECT_EQ(areas, (std::set<std::int64_t>{9, 12, 16}));
}

TEST(AdaptiveBlend, AddsAsManyCoverImagesWithTheirTrueLabels) {
  Poisoned run("", {.target = 2, .classes = 4, .poison_ratio = 0.3}, random_images(25, 3));
  EXPECT_EQ(run.count(Role::poison), 8U);  // round(7.5)
  EXPECT_EQ(run.count(Role::cover), 8U);
  EXPECT_EQ(run.editor.written.size(), 16U);  // no position twice
  for (const auto& [position, entry] : run.editor.written)
    EXPECT_EQ(entry.label, entry.role == Role::poison ? 2 : position % 4);
}

TEST(AdaptiveBlend, AddsAsManyCoverImagesAsAsked) {
  const auto covers = [](const std::string& recipe, double ratio) {
    return Poisoned(recipe, {.classes = 4, .poison_ratio = ratio}, random_images(40, 1))
        .count(Role::cover);
  };
  EXPECT_EQ(covers("cover_rate = 0.0", 0.1), 0U);
  EXPECT_EQ(covers("cover_rate = 2.5", 0.1), 10U);
  EXPECT_EQ(covers("cover_rate = 3.0", 0.25), 30U);
  EXPECT_EQ(covers("", 0.5), 20U);
}

TEST(AdaptiveBlend, DrawsFromTheContextsGenerator) {
  const auto images = [](std::uint64_t seed) {
    Poisoned run("", {.classes = 4, .poison_ratio = 0.25}, random_images(20, 1), seed);
    std::vector<at::Tensor> result;
    for (const auto& [position, entry] : run.editor.written) result.push_back(entry.image);
    return result;
  };
  const auto same = [](const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const at::Tensor& x, const at::Tensor& y) { return x.equal(y); });
  };
  EXPECT_TRUE(same(images(1), images(1)));
  EXPECT_FALSE(same(images(1), images(2)));
}

TEST(AdaptiveBlend, RefusesImpossibleParameters) {
  EXPECT_EQ(refusal("pieces = 15"), "`pieces` must be a square number, got 15");
  EXPECT_EQ(refusal("mask_rate = 0.99"), "a `mask_rate` of 0.990000 masks all 16 pieces");
  EXPECT_EQ(refusal("pieces = 81"),
            "a grid of 9 x 9 pieces does not fit into images of 8 x 8 pixels");
  EXPECT_EQ(refusal("pieces = 64"), "accepted");
  EXPECT_EQ(refusal("pattern = \"image\""), "`pattern` is \"image\", but `image` is missing");
  EXPECT_EQ(refusal("", {.classes = 4, .poison_ratio = 0.6}),
            "`poison_ratio` * (1 + `cover_rate`) must be at most 1, got 0.600000 * (1 + 1.000000)");
  EXPECT_EQ(refusal("cover_rate = 2.0", {.classes = 4, .poison_ratio = 1.0 / 3}), "accepted");
}
