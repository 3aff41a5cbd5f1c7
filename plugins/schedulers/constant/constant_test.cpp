#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Scheduler;
using backstop::TrainingPosition;
using backstop::testing::FakeParams;
using backstop::testing::make;

TEST(Constant, GivesTheSameRateEverywhere) {
  const FakeParams params{"rate = 0.25"};
  const auto scheduler = make<Scheduler>(params);
  for (std::int64_t iteration : {0, 1, 1000}) {
    TrainingPosition position;
    position.iteration = iteration;
    EXPECT_EQ(scheduler->rate(position), 0.25);
  }
}

TEST(Constant, UsesTheDefaultOfTheManifest) {
  const FakeParams params;
  EXPECT_EQ(make<Scheduler>(params)->rate({}), 0.01);
}
