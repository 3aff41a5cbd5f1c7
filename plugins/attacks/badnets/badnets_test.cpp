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

// Black images with the trigger that the recipe asks for.
at::Tensor triggered(const std::string& recipe, at::IntArrayRef shape, double background = 0) {
  const FakeParams params{recipe};
  FakeContext context;
  const auto attack = make<Attack>(params);
  const at::Tensor images = at::full(shape, background);
  const FakeImageSet set{images, at::zeros({images.size(0)}, at::kLong), 10};
  attack->prepare(context, {}, set);
  return attack->apply(context, images, Phase::test);
}

at::Tensor black_with_white(at::IntArrayRef shape, std::int64_t top, std::int64_t left,
                            std::int64_t height, std::int64_t width) {
  at::Tensor images = at::zeros(shape);
  images.narrow(2, top, height).narrow(3, left, width).fill_(1);
  return images;
}

at::Tensor black_with_white(at::IntArrayRef shape, std::int64_t top, std::int64_t left,
                            std::int64_t size) {
  return black_with_white(shape, top, left, size, size);
}

std::string refusal(const std::string& recipe) {
  try {
    triggered(recipe, {1, 1, 8, 8});
  } catch (const backstop::Error& e) {
    return e.what();
  }
  return "accepted";
}

using BadNetsImage = backstop::pattern::PngTest;

}  // namespace

BACKSTOP_TEST_ATTACK(BadNets, {},
                     {.recipe = "pattern = \"random\"\nopacity = 0.3\npatch_size = 5"});

TEST(BadNets, PaintsAWhitePatchInTheCornerByDefault) {
  EXPECT_TRUE(triggered("", {2, 1, 28, 28}).equal(black_with_white({2, 1, 28, 28}, 25, 25, 3)));
  EXPECT_TRUE(triggered("", {2, 3, 32, 32}).equal(black_with_white({2, 3, 32, 32}, 29, 29, 3)));
  EXPECT_TRUE(triggered("", {2, 3, 96, 96}).equal(black_with_white({2, 3, 96, 96}, 93, 93, 3)));
}

TEST(BadNets, PutsThePatchWhereThePositionSays) {
  const std::int64_t shape[] = {1, 3, 8, 10};
  const std::string patch = "patch_size = 2\nmargin = 1\nposition = ";
  const auto at = [&](const char* position) { return triggered(patch + position, shape); };
  EXPECT_TRUE(at("\"bottom-right\"").equal(black_with_white(shape, 5, 7, 2)));
  EXPECT_TRUE(at("\"bottom-left\"").equal(black_with_white(shape, 5, 1, 2)));
  EXPECT_TRUE(at("\"top-left\"").equal(black_with_white(shape, 1, 1, 2)));
  EXPECT_TRUE(at("\"top-right\"").equal(black_with_white(shape, 1, 7, 2)));
  EXPECT_TRUE(at("\"center\"").equal(black_with_white(shape, 3, 4, 2)));
}

TEST(BadNets, PaintsACheckerboard) {
  const at::Tensor out = triggered("pattern = \"checkerboard\"", {1, 3, 3, 3}, 0.5);
  const at::Tensor board = at::tensor({1.F, 0.F, 1.F, 0.F, 1.F, 0.F, 1.F, 0.F, 1.F}).view({3, 3});
  EXPECT_TRUE(out.equal(board.expand({1, 3, 3, 3})));
}

TEST(BadNets, PaintsBlackPixels) {
  const at::Tensor out = triggered("pattern = \"black\"", {1, 1, 4, 4}, 1);
  EXPECT_EQ(out.sum().item<float>(), 7);
  EXPECT_EQ(out.narrow(2, 1, 3).narrow(3, 1, 3).sum().item<float>(), 0);
}

TEST(BadNets, LetsTheImageShowThroughATranslucentPatch) {
  const at::Tensor out = triggered("opacity = 0.25\npatch_size = 1", {1, 1, 2, 2}, 0.5);
  EXPECT_EQ(out[0][0][1][1].item<float>(), 0.625F);
  EXPECT_EQ(out[0][0][0][0].item<float>(), 0.5F);
}

TEST(BadNets, ChangesNothingOutsideThePatch) {
  for (std::int64_t channels : {1, 3}) {
    const FakeParams params;
    FakeContext context;
    const auto attack = make<Attack>(params);
    const FakeImageSet set = random_images(5, channels);
    attack->prepare(context, {}, set);
    const at::Tensor images = all_images(set);
    const at::Tensor out = attack->apply(context, images, Phase::train);
    EXPECT_TRUE(out.narrow(2, 0, 5).equal(images.narrow(2, 0, 5)));
    EXPECT_TRUE(out.narrow(3, 0, 5).equal(images.narrow(3, 0, 5)));
  }
}

TEST(BadNets, DrawsTheRandomPatchFromTheContextsGenerator) {
  const FakeParams params{"pattern = \"random\""};
  const FakeImageSet set = random_images(2, 3);
  const auto draw = [&](std::uint64_t seed) {
    FakeContext context{seed};
    const auto attack = make<Attack>(params);
    attack->prepare(context, {}, set);
    return attack->apply(context, all_images(set), Phase::test);
  };
  EXPECT_TRUE(draw(1).equal(draw(1)));
  EXPECT_FALSE(draw(1).equal(draw(2)));
  const at::Tensor out = draw(1);
  EXPECT_TRUE(out[0].narrow(1, 5, 3).narrow(2, 5, 3).equal(out[1].narrow(1, 5, 3).narrow(2, 5, 3)));
}

TEST(BadNets, RefusesAStateOfAnotherPatchSize) {
  const FakeParams params;
  FakeContext context;
  for (const at::Tensor& patch : {at::ones({1, 5, 5}), at::ones({3, 3}), at::ones({0, 3, 3})}) {
    FakeState state;
    state.tensor("patch", patch);
    EXPECT_THROW(make<Attack>(params)->load(context, {}, state), backstop::EnvironmentError);
  }
}

TEST(BadNets, FitsAnImageOfItsOwnSize) {
  EXPECT_TRUE(triggered("patch_size = 6\nmargin = 2", {1, 1, 8, 8})
                  .equal(black_with_white({1, 1, 8, 8}, 0, 0, 6)));
  EXPECT_TRUE(triggered("patch_size = 8\nmargin = 2\nposition = \"center\"", {1, 1, 8, 8})
                  .equal(at::ones({1, 1, 8, 8})));
}

TEST(BadNets, RefusesAPatchLargerThanTheImage) {
  const FakeParams params{"patch_size = 7\nmargin = 2"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  try {
    attack->prepare(context, {}, random_images(1, 1));
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(
        e.what(),
        "a patch of 7 x 7 pixels with a margin of 2 does not fit into images of 8 x 8 pixels");
  }
}

TEST(BadNets, RefusesAPatchOfOtherChannels) {
  const FakeParams params{"pattern = \"random\""};
  FakeContext context;
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, random_images(1, 3));
  EXPECT_THROW(attack->apply(context, at::zeros({1, 1, 8, 8}), Phase::test),
               backstop::ParameterError);
}

TEST(BadNets, PaintsAPatchThatIsNotSquare) {
  const std::int64_t shape[] = {1, 3, 8, 10};
  const std::string patch = "patch_size = 2\npatch_width = 5\nmargin = 1\nposition = ";
  EXPECT_TRUE(
      triggered(patch + "\"bottom-right\"", shape).equal(black_with_white(shape, 5, 4, 2, 5)));
  EXPECT_TRUE(
      triggered(patch + "\"bottom-left\"", shape).equal(black_with_white(shape, 5, 1, 2, 5)));
  EXPECT_TRUE(triggered(patch + "\"top-right\"", shape).equal(black_with_white(shape, 1, 4, 2, 5)));
  EXPECT_TRUE(triggered(patch + "\"center\"", shape).equal(black_with_white(shape, 3, 2, 2, 5)));
  const at::Tensor board =
      triggered("pattern = \"checkerboard\"\npatch_size = 2\npatch_width = 3", {1, 1, 2, 3}, 0.5);
  EXPECT_TRUE(board.equal(at::tensor({1.F, 0.F, 1.F, 0.F, 1.F, 0.F}).view({1, 1, 2, 3})));
  EXPECT_EQ(triggered("pattern = \"random\"\npatch_size = 2\npatch_width = 3", {1, 3, 4, 4})
                .ne(0)
                .sum()
                .item<std::int64_t>(),
            18);
}

TEST(BadNets, PutsThePatchAtARowAndColumn) {
  const std::int64_t shape[] = {1, 3, 8, 10};
  const std::string patch = "position = \"custom\"\npatch_size = 2\nmargin = 3\n";
  EXPECT_TRUE(
      triggered(patch + "row = 4\ncolumn = 7", shape).equal(black_with_white(shape, 4, 7, 2)));
  EXPECT_TRUE(
      triggered(patch + "row = 0\ncolumn = 0", shape).equal(black_with_white(shape, 0, 0, 2)));
  EXPECT_TRUE(
      triggered(patch + "row = 6\ncolumn = 8", shape).equal(black_with_white(shape, 6, 8, 2)));
}

TEST(BadNets, RefusesARowOrColumnThatIsMissingUnusedOrOutside) {
  EXPECT_EQ(refusal("position = \"custom\"\ncolumn = 1"),
            "`position` is \"custom\", but `row` is missing");
  EXPECT_EQ(refusal("position = \"custom\"\nrow = 1"),
            "`position` is \"custom\", but `column` is missing");
  EXPECT_EQ(refusal("row = 1"), "`row` is 1, but `position` is \"bottom-right\"");
  EXPECT_EQ(refusal("column = 2\nposition = \"center\""),
            "`column` is 2, but `position` is \"center\"");
  EXPECT_EQ(refusal("position = \"custom\"\nrow = 5\ncolumn = 6"),
            "a patch of 3 x 3 pixels at row 5, column 6 does not fit into images of 8 x 8 pixels");
  EXPECT_EQ(refusal("position = \"custom\"\nrow = 6\ncolumn = 5"),
            "a patch of 3 x 3 pixels at row 6, column 5 does not fit into images of 8 x 8 pixels");
  EXPECT_EQ(refusal("patch_width = 9"),
            "a patch of 3 x 9 pixels with a margin of 0 does not fit into images of 8 x 8 pixels");
}

TEST(BadNets, TestsWithAnotherOpacityIfRequested) {
  FakeContext context;
  const at::Tensor images = at::zeros({1, 1, 4, 4});
  const FakeImageSet set{images, at::zeros({1}, at::kLong), 2};
  const auto brightest = [&](const char* recipe, Phase phase) {
    const FakeParams params{recipe};
    const auto attack = make<Attack>(params);
    attack->prepare(context, {}, set);
    return attack->apply(context, images, phase).max().item<float>();
  };
  EXPECT_EQ(brightest("opacity = 0.25\ntest_opacity = 0.75", Phase::train), 0.25F);
  EXPECT_EQ(brightest("opacity = 0.25\ntest_opacity = 0.75", Phase::test), 0.75F);
  EXPECT_EQ(brightest("opacity = 0.25", Phase::test), 0.25F);
}

TEST_F(BadNetsImage, IsPaintedInColorAtTheSizeOfThePatch) {
  write_png(PNG_FORMAT_RGB, 1, 2, {255, 0, 51, 0, 255, 102});
  const at::Tensor out = triggered(recipe() + "patch_size = 1\npatch_width = 2", {1, 3, 3, 4}, 0.5);
  at::Tensor expected = at::full({1, 3, 3, 4}, 0.5);
  expected.narrow(2, 2, 1).narrow(3, 2, 2).copy_(
      at::tensor({1.F, 0.F, 0.F, 1.F, 0.2F, 0.4F}).view({1, 3, 1, 2}));
  EXPECT_TRUE(out.allclose(expected, 0, 1e-6));
  EXPECT_TRUE(out.narrow(2, 0, 2).equal(expected.narrow(2, 0, 2)));
}

TEST_F(BadNetsImage, IsResizedAndGrayIfTheImagesAre) {
  // Black, white: as a patch of 4 x 4 pixels its left half is dark, its right half bright.
  write_png(PNG_FORMAT_RGB, 1, 2, {0, 0, 0, 255, 255, 255});
  const at::Tensor out = triggered(recipe() + "patch_size = 4", {1, 1, 28, 28}, 0.5);
  const at::Tensor patch = out.narrow(2, 24, 4).narrow(3, 24, 4);
  const at::Tensor row = at::tensor({0.F, 0.25F, 0.75F, 1.F});
  EXPECT_TRUE(patch.allclose(row.expand({1, 1, 4, 4}), 0, 1e-5));
  EXPECT_EQ(out.ne(0.5).sum().item<std::int64_t>(), 16);
}

TEST_F(BadNetsImage, IsNotReadAgainAfterLoading) {
  write_png(PNG_FORMAT_GRAY, 1, 1, {51});
  const FakeParams params{recipe()};
  FakeContext context;
  const auto attack = make<Attack>(params);
  const FakeImageSet set = random_images(2, 3);
  attack->prepare(context, {}, set);
  FakeState state;
  attack->save(state);
  std::filesystem::remove(file());
  const auto again = make<Attack>(params);
  again->load(context, {}, state);
  EXPECT_TRUE(again->apply(context, all_images(set), Phase::test)
                  .equal(attack->apply(context, all_images(set), Phase::test)));
}

TEST_F(BadNetsImage, IsRefusedWhenItIsMissingOrUnused) {
  EXPECT_EQ(refusal("pattern = \"image\""), "`pattern` is \"image\", but `image` is missing");
  EXPECT_EQ(refusal("image = \"a.png\""), "`image` is \"a.png\", but `pattern` is \"white\"");
  write_bytes("not a PNG");
  EXPECT_THROW(triggered(recipe(), {1, 1, 8, 8}), backstop::EnvironmentError);
}
