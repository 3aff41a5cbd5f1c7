#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::BatchNormMode;
using backstop::Defense;
using backstop::OptimizerKind;
using backstop::Part;
using backstop::TrainingOptions;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FixedRate;
using backstop::testing::make;

namespace {

// Returns what the defense asked of the trainer; it must train once, on the clean images.
TrainingOptions trained_with(const char* recipe, const backstop::Scheduler& scheduler) {
  FakeParams params{recipe};
  params.set_scheduler("scheduler", scheduler);
  const auto defense = make<Defense>(params);
  FakeContext context;
  FakeModel model{1, 4};
  const FakeImageSet clean{at::zeros({6, 1, 4, 4}), at::zeros({6}, at::kLong), 4};
  defense->run(context, model, FakeData{clean});
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{6});
  return context.trainer().fits.at(0);
}

}  // namespace

BACKSTOP_TEST_DEFENSE(FineTuning, {}, {.recipe = "trainable = \"head\""},
                      {.recipe = "batch_norm = \"frozen\""});

TEST(FineTuning, TrainsTheWholeModelOnTheCleanImages) {
  const FixedRate rate;
  const TrainingOptions options = trained_with("", rate);
  EXPECT_EQ(options.epochs, 10);
  EXPECT_EQ(options.batch_size, 128);
  EXPECT_EQ(options.scheduler, &rate);
  EXPECT_EQ(options.step, nullptr);
  EXPECT_EQ(options.trainable, Part::whole);
  EXPECT_EQ(options.batch_norm, BatchNormMode::normal);
  EXPECT_EQ(options.optimizer.kind, OptimizerKind::sgd);
  EXPECT_EQ(options.optimizer.momentum, 0.9);
  EXPECT_EQ(options.optimizer.weight_decay, 5e-4);
  EXPECT_TRUE(options.augment);
}

TEST(FineTuning, UsesTheParametersOfTheRecipe) {
  const FixedRate rate;
  const TrainingOptions options = trained_with(
      "epochs = 3\nbatch_size = 7\ntrainable = \"head\"\nbatch_norm = \"frozen\"", rate);
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.batch_size, 7);
  EXPECT_EQ(options.trainable, Part::head);
  EXPECT_EQ(options.batch_norm, BatchNormMode::frozen);
  const auto optimizer =
      trained_with("optimizer = { name = \"adam\", beta1 = 0.5, weight_decay = 0.0 }", rate)
          .optimizer;
  EXPECT_EQ(optimizer.kind, OptimizerKind::adam);
  EXPECT_EQ(optimizer.beta1, 0.5);
  EXPECT_EQ(optimizer.weight_decay, 0);
  EXPECT_EQ(trained_with("batch_norm = \"frozen-statistics\"", rate).batch_norm,
            BatchNormMode::frozen_statistics);
}
