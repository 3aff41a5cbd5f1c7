#include <gtest/gtest.h>

#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;

// What every attack must hold, with the default parameters and with a larger square.
BACKSTOP_TEST_ATTACK(@Class@, {}, {.recipe = "size = 8"});

TEST(@Class@, PaintsAYellowSquareAndNothingElse) {
  const FakeParams params{"size = 2"};
  FakeContext context;
  const at::Tensor triggered =
      make<Attack>(params)->apply(context, at::full({1, 3, 8, 8}, 0.5), Phase::test);

  at::Tensor expected = at::full({1, 3, 8, 8}, 0.5);
  expected.slice(2, 6).slice(3, 6).copy_(at::tensor({1.0, 1.0, 0.0}).view({3, 1, 1}));
  EXPECT_TRUE(triggered.equal(expected));
}

TEST(@Class@, RefusesASquareThatDoesNotFit) {
  const FakeParams params{"size = 9"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  EXPECT_THROW(attack->apply(context, at::zeros({1, 3, 8, 8}), Phase::test),
               backstop::ParameterError);
}
