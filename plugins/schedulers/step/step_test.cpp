#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Scheduler;
using backstop::TrainingPosition;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

TrainingPosition at_iteration(std::int64_t iteration, std::int64_t iterations_per_epoch) {
  TrainingPosition position;
  position.iteration = iteration;
  position.iterations_per_epoch = iterations_per_epoch;
  position.epochs = 100;
  return position;
}

}  // namespace

TEST(Step, DropsAtTheFirstIterationOfAMilestone) {
  const FakeParams params{"rate = 0.8\nfactor = 0.5\nmilestones = [2, 5]"};
  const auto scheduler = make<Scheduler>(params);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(0, 10)), 0.8);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(19, 10)), 0.8);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(20, 10)), 0.4);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(49, 10)), 0.4);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(50, 10)), 0.2);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(999, 10)), 0.2);
}

TEST(Step, CountsEpochsOfOneIteration) {
  const FakeParams params{"milestones = [1, 2]"};
  const auto scheduler = make<Scheduler>(params);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(0, 1)), 0.1);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(1, 1)), 0.01);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(2, 1)), 0.001);
}

TEST(Step, RefusesMilestonesThatDoNotIncrease) {
  for (const char* milestones : {"milestones = [5, 2]", "milestones = [3, 3]"}) {
    const FakeParams params{milestones};
    EXPECT_THROW(make<Scheduler>(params), backstop::Error) << milestones;
  }
  const FakeParams params{"milestones = [1, 5, 2]"};
  try {
    make<Scheduler>(params);
    FAIL() << "accepted";
  } catch (const backstop::Error& e) {
    EXPECT_STREQ(e.what(), "`milestones` must increase, got 2 after 5");
  }
}
