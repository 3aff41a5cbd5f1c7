#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Scheduler;
using backstop::TrainingPosition;
using backstop::testing::FakeParams;
using backstop::testing::make;

TEST(@Class@, RisesAndFallsAgainAndAgain) {
  const FakeParams params{"base = 0.1\nmaximum = 0.5\nperiod = 2.0"};
  const auto scheduler = make<Scheduler>(params);
  TrainingPosition position;
  position.iterations_per_epoch = 4;
  position.epochs = 4;
  const double expected[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2};
  for (position.iteration = 0; position.iteration < 16; ++position.iteration)
    EXPECT_NEAR(scheduler->rate(position), expected[position.iteration % 8], 1e-12);
}

TEST(@Class@, RefusesAMaximumBelowItsBase) {
  const FakeParams params{"base = 0.5\nmaximum = 0.1"};
  EXPECT_THROW(make<Scheduler>(params), backstop::Error);
}
