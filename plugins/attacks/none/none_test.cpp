#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::testing::FakeContext;
using backstop::testing::FakeEditor;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

FakeImageSet image_set(std::int64_t channels, std::int64_t side) {
  at::Generator generator = at::detail::createCPUGenerator(7);
  return {at::rand({6, channels, side, side}, generator), at::arange(6, at::kLong).remainder(3), 3};
}

}  // namespace

TEST(None, LeavesImagesAlone) {
  for (const std::int64_t side : {28, 32, 96}) {
    for (const std::int64_t channels : {1, 3}) {
      const FakeParams params;
      FakeContext context;
      const auto attack = make<Attack>(params);
      const at::Tensor images = image_set(channels, side).images(at::arange(6, at::kLong));
      EXPECT_TRUE(attack->apply(context, images, Phase::train).equal(images));
      EXPECT_TRUE(attack->apply(context, images, Phase::test).equal(images));
    }
  }
}

TEST(None, PoisonsNothingWhateverTheRatio) {
  for (const double ratio : {0.0, 0.1, 1.0}) {
    const FakeParams params;
    FakeContext context;
    const auto attack = make<Attack>(params);
    const FakeImageSet set = image_set(1, 8);
    FakeEditor editor{set};
    attack->poison(context, {.classes = 3, .poison_ratio = ratio}, editor);
    EXPECT_TRUE(editor.written.empty());
  }
}
