#include <gtest/gtest.h>

#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::random_images;

BACKSTOP_TEST_ATTACK(None, {.poisons = false});

TEST(None, LeavesImagesUnchanged) {
  for (const std::int64_t side : {28, 32, 96}) {
    for (const std::int64_t channels : {1, 3}) {
      const FakeParams params;
      FakeContext context;
      const auto attack = make<Attack>(params);
      const at::Tensor images = all_images(random_images(6, channels, side));
      EXPECT_TRUE(attack->apply(context, images, Phase::train).equal(images));
      EXPECT_TRUE(attack->apply(context, images, Phase::test).equal(images));
    }
  }
}
