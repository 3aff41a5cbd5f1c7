#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::testing::FakeContext;
using backstop::testing::FakeEditor;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::make;

TEST(@Class@, PaintsAYellowSquareAndNothingElse) {
  const FakeParams params{"size = 2"};
  FakeContext context;
  const at::Tensor images = at::full({1, 3, 8, 8}, 0.5);
  const at::Tensor triggered = make<Attack>(params)->apply(context, images, Phase::test);

  at::Tensor expected = at::full({1, 3, 8, 8}, 0.5);
  expected.slice(2, 6).slice(3, 6).copy_(at::tensor({1.0, 1.0, 0.0}).view({3, 1, 1}));
  EXPECT_TRUE(triggered.equal(expected));
  EXPECT_TRUE(images.eq(0.5).all().item<bool>());
}

TEST(@Class@, PoisonsTheShareThatTheRecipeSays) {
  const FakeParams params;
  FakeContext context;
  const FakeImageSet set{at::zeros({10, 1, 8, 8}), at::zeros({10}, at::kLong), 4};
  FakeEditor editor{set};
  backstop::Threat threat;
  threat.classes = 4;
  threat.target = 3;
  threat.poison_ratio = 0.2;
  make<Attack>(params)->poison(context, threat, editor);
  ASSERT_EQ(editor.written.size(), 2U);
  for (const auto& [position, entry] : editor.written) EXPECT_EQ(entry.label, 3);
}

TEST(@Class@, RefusesASquareThatDoesNotFit) {
  const FakeParams params{"size = 9"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  EXPECT_THROW(attack->apply(context, at::zeros({1, 3, 8, 8}), Phase::test),
               backstop::ParameterError);
}
