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

TEST(SuperFineTuning, FollowsTheGivenTriangles) {
  const FakeParams params{
      "base = 0.1\nmaximum_1 = 1.0\nmaximum_2 = 0.4\nphase_1_epochs = 1\n"
      "up_iterations = 3\ndown_iterations = 2"};
  const auto scheduler = make<Scheduler>(params);
  const double first[] = {0.1, 0.4, 0.7, 1.0, 0.55, 0.1, 0.4, 0.7, 1.0, 0.55};
  for (std::int64_t i = 0; i < 10; ++i) {
    EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(i, 10)), first[i]) << "iteration " << i;
  }
  const double second[] = {0.1, 0.2, 0.3, 0.4, 0.25, 0.1};
  for (std::int64_t i = 0; i < 6; ++i) {
    EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(10 + i, 10)), second[i])
        << "iteration " << 10 + i;
  }
}

TEST(SuperFineTuning, DefaultsToThePapersValues) {
  const FakeParams params;
  const auto scheduler = make<Scheduler>(params);
  // 80 iterations an epoch, 4 triangles: 10 up, 10 down.
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(0, 80)), 0.001);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(1, 80)), 0.0109);
  EXPECT_EQ(scheduler->rate(at_iteration(10, 80)), 0.1);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(15, 80)), 0.0505);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(20, 80)), 0.001);
  EXPECT_EQ(scheduler->rate(at_iteration(9 * 80 + 70, 80)), 0.1);    // the last peak of epoch 10
  EXPECT_EQ(scheduler->rate(at_iteration(10 * 80 + 10, 80)), 0.01);  // the first peak of epoch 11
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(10 * 80 + 15, 80)), 0.0055);
}

TEST(SuperFineTuning, ChangesPhaseInsideATriangle) {
  const FakeParams params{
      "base = 0.0\nmaximum_1 = 1.0\nmaximum_2 = 0.5\nphase_1_epochs = 1\n"
      "up_iterations = 4\ndown_iterations = 4"};
  const auto scheduler = make<Scheduler>(params);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(9, 10)), 0.25);
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(10, 10)), 0.25);  // 1/2 of the second maximum
  EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(11, 10)), 0.375);
}

TEST(SuperFineTuning, RoundsTheTriangleToWholeIterations) {
  const FakeParams params{"base = 0.0\nmaximum_1 = 0.6\nmaximum_2 = 0.6"};
  const auto scheduler = make<Scheduler>(params);
  // 20 / 4 = 5 iterations: 2 up, 3 down.
  const double expected[] = {0.0, 0.3, 0.6, 0.4, 0.2, 0.0};
  for (std::int64_t i = 0; i < 6; ++i) {
    EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(i, 20)), expected[i]) << "iteration " << i;
  }
  // 391 / 4 = 97.75: 98 iterations, 49 up.
  EXPECT_EQ(scheduler->rate(at_iteration(49, 391)), 0.6);
  EXPECT_EQ(scheduler->rate(at_iteration(98, 391)), 0.0);
}

TEST(SuperFineTuning, AlternatesWhenAnEpochIsOneIteration) {
  const FakeParams params{"phase_1_epochs = 4"};
  const auto scheduler = make<Scheduler>(params);
  const double expected[] = {0.001, 0.1, 0.001, 0.1, 0.001, 0.01, 0.001, 0.01};
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_DOUBLE_EQ(scheduler->rate(at_iteration(i, 1)), expected[i]) << "iteration " << i;
  }
}

TEST(SuperFineTuning, StaysBetweenTheBaseAndTheMaximumAndReachesBoth) {
  const FakeParams params;
  const auto scheduler = make<Scheduler>(params);
  for (std::int64_t per_epoch : {1, 2, 3, 5, 7, 20, 391}) {
    double largest = 0, smallest = 1;
    for (std::int64_t i = 0; i < 10 * per_epoch; ++i) {
      const double rate = scheduler->rate(at_iteration(i, per_epoch));
      largest = std::max(largest, rate);
      smallest = std::min(smallest, rate);
    }
    EXPECT_EQ(smallest, 0.001) << per_epoch << " iterations an epoch";
    EXPECT_EQ(largest, 0.1) << per_epoch << " iterations an epoch";
  }
}

TEST(SuperFineTuning, GivesTheFirstPhaseAtMostHalfOfAShortTraining) {
  const FakeParams params;
  const auto scheduler = make<Scheduler>(params);
  // Triangles of two iterations: 0.001 and a maximum in turn.
  const auto maximum_at = [&](std::int64_t iteration, std::int64_t epochs) {
    TrainingPosition position = at_iteration(iteration, 8);
    position.epochs = epochs;
    return scheduler->rate(position);
  };
  EXPECT_EQ(maximum_at(11, 3), 0.1);  // 24 iterations
  EXPECT_EQ(maximum_at(13, 3), 0.01);
  EXPECT_EQ(maximum_at(3, 1), 0.1);
  EXPECT_EQ(maximum_at(5, 1), 0.01);
  EXPECT_EQ(maximum_at(79, 20), 0.1);
  EXPECT_EQ(maximum_at(81, 20), 0.01);
  EXPECT_EQ(maximum_at(79, 19), 0.01);
  EXPECT_EQ(maximum_at(81, 100), 0.01);  // never more than the paper's ten epochs
}

TEST(SuperFineTuning, EndsInTheSecondPhaseWhateverTheLength) {
  const FakeParams params{"base = 0.0\nmaximum_1 = 2.0\nmaximum_2 = 0.5"};
  const auto scheduler = make<Scheduler>(params);
  for (const std::int64_t per_epoch : {1, 2, 3, 8, 391}) {
    for (const std::int64_t epochs : {1, 2, 3, 10, 20}) {
      TrainingPosition position = at_iteration(0, per_epoch);
      position.epochs = epochs;
      for (position.iteration = position.total_iterations() / 2;
           position.iteration < position.total_iterations(); ++position.iteration)
        EXPECT_LE(scheduler->rate(position), 0.5) << per_epoch << " x " << epochs;
    }
  }
}

TEST(SuperFineTuning, KeepsTheGivenLengthOfTheFirstPhase) {
  const FakeParams params{"phase_1_epochs = 10"};
  TrainingPosition position = at_iteration(79, 8);
  position.epochs = 10;
  EXPECT_EQ(make<Scheduler>(params)->rate(position), 0.1);
}

TEST(SuperFineTuning, SkipsAFirstPhaseOfZeroEpochs) {
  const FakeParams params{"phase_1_epochs = 0"};
  EXPECT_EQ(make<Scheduler>(params)->rate(at_iteration(10, 80)), 0.01);
}

TEST(SuperFineTuning, RefusesRatesThatDecrease) {
  for (const char* recipe : {"base = 0.05", "maximum_1 = 0.005", "base = 0.2\nmaximum_2 = 0.2"}) {
    const FakeParams params{recipe};
    EXPECT_THROW(make<Scheduler>(params), backstop::Error) << recipe;
  }
}

TEST(SuperFineTuning, RefusesHalfATriangle) {
  for (const char* recipe : {"up_iterations = 10", "down_iterations = 10"}) {
    const FakeParams params{recipe};
    EXPECT_THROW(make<Scheduler>(params), backstop::Error) << recipe;
  }
}
