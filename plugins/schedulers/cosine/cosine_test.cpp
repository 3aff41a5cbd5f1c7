#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Scheduler;
using backstop::TrainingPosition;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

TrainingPosition at_iteration(std::int64_t iteration, std::int64_t iterations_per_epoch,
                              std::int64_t epochs) {
  TrainingPosition position;
  position.iteration = iteration;
  position.iterations_per_epoch = iterations_per_epoch;
  position.epochs = epochs;
  return position;
}

}  // namespace

TEST(Cosine, FallsOverTheWholeTraining) {
  const FakeParams params{"rate = 0.5\nminimum = 0.1"};
  const auto scheduler = make<Scheduler>(params);
  // 12 iterations: cos(pi/3) = 1/2 after 4 of them, 0 after 6, -1/2 after 8.
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(0, 4, 3)), 0.5);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(4, 4, 3)), 0.4);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(6, 4, 3)), 0.3);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(8, 4, 3)), 0.2);
}

TEST(Cosine, FallsWithinAnEpochAndNeverBelowTheMinimum) {
  const FakeParams params{"minimum = 0.001"};
  const auto scheduler = make<Scheduler>(params);
  for (std::int64_t i = 1; i < 100; ++i) {
    EXPECT_LT(scheduler->rate(at_iteration(i, 100, 1)),
              scheduler->rate(at_iteration(i - 1, 100, 1)));
    EXPECT_GT(scheduler->rate(at_iteration(i, 100, 1)), 0.001);
  }
}

TEST(Cosine, AcceptsAPeriodOtherThanTheTraining) {
  const FakeParams params{"rate = 1.0\nperiod_epochs = 100"};
  const auto scheduler = make<Scheduler>(params);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(500, 10, 50)), 0.5);
}

TEST(Cosine, StaysAtTheMinimumAfterThePeriod) {
  const FakeParams params{"minimum = 0.002\nperiod_epochs = 2"};
  const auto scheduler = make<Scheduler>(params);
  for (std::int64_t i : {20, 21, 40}) {
    EXPECT_EQ(scheduler->rate(at_iteration(i, 10, 5)), 0.002);
  }
}

TEST(Cosine, ATrainingOfOneIterationRunsAtTheFirstRate) {
  const FakeParams params;
  EXPECT_EQ(make<Scheduler>(params)->rate(at_iteration(0, 1, 1)), 0.01);
}

TEST(Cosine, RefusesAMinimumAboveTheRate) {
  const FakeParams params{"rate = 0.1\nminimum = 0.2"};
  EXPECT_THROW(make<Scheduler>(params), backstop::Error);
}
