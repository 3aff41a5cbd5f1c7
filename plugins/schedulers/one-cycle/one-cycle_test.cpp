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

// 21 iterations: the rise ends at iteration 8, the fall at iteration 20.
constexpr const char* kRecipe =
    "maximum = 1.0\nwarm_up = 0.4\ninitial_divisor = 5.0\nfinal_divisor = 2.0\n";

}  // namespace

TEST(OneCycle, RisesAndFallsInStraightLines) {
  const FakeParams params{kRecipe};
  const auto scheduler = make<Scheduler>(params);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(0, 7, 3)), 0.2);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(2, 7, 3)), 0.4);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(4, 7, 3)), 0.6);
  EXPECT_EQ(scheduler->rate(at_iteration(8, 7, 3)), 1.0);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(14, 7, 3)), 0.55);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(20, 7, 3)), 0.1);
}

TEST(OneCycle, RisesAndFallsAlongCosines) {
  const FakeParams params{std::string(kRecipe) + "shape = \"cosine\""};
  const auto scheduler = make<Scheduler>(params);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(0, 7, 3)), 0.2);
  EXPECT_NEAR(scheduler->rate(at_iteration(2, 7, 3)), 0.2 + 0.8 * 0.1464466094067262, 1e-12);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(4, 7, 3)), 0.6);
  EXPECT_EQ(scheduler->rate(at_iteration(8, 7, 3)), 1.0);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(12, 7, 3)), 0.775);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(20, 7, 3)), 0.1);
}

TEST(OneCycle, StaysBetweenTheFinalRateAndTheMaximumForEveryLength) {
  for (const char* shape : {"shape = \"linear\"", "shape = \"cosine\""}) {
    const FakeParams params{shape};
    const auto scheduler = make<Scheduler>(params);
    for (std::int64_t total : {1, 2, 3, 7, 100}) {
      double largest = 0;
      for (std::int64_t i = 0; i < total; ++i) {
        const double rate = scheduler->rate(at_iteration(i, total, 1));
        EXPECT_GE(rate, 0.1 / 25 / 1e4);
        largest = std::max(largest, rate);
      }
      EXPECT_EQ(largest, 0.1) << total << " iterations";
    }
  }
}

TEST(OneCycle, RisesUntilTheEndIfTheWarmUpIsTheWholeTraining) {
  const FakeParams params{"warm_up = 1.0\nmaximum = 0.5\ninitial_divisor = 5.0"};
  const auto scheduler = make<Scheduler>(params);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(0, 5, 1)), 0.1);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(3, 5, 1)), 0.4);
  EXPECT_EQ(scheduler->rate(at_iteration(4, 5, 1)), 0.5);
}
