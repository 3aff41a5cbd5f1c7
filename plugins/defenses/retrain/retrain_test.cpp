#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

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

void run(FakeContext& context, FakeModel& model, const char* recipe,
         const backstop::Scheduler& scheduler) {
  FakeParams params{recipe};
  params.set_scheduler("scheduler", scheduler);
  const FakeImageSet clean{at::zeros({6, 2, 4, 4}), at::zeros({6}, at::kLong), 4};
  make<Defense>(params)->run(context, model, FakeData{clean});
}

at::Tensor weights(FakeModel& model) {
  return model.layers()[0].weight.detach().clone();
}

}  // namespace

BACKSTOP_TEST_DEFENSE(Retrain);

TEST(Retrain, KeepsNothingOfTheModelItIsGiven) {
  const FixedRate rate;
  FakeModel one{2, 4}, other{2, 4};
  other.layers()[0].weight.detach().fill_(7);
  FakeContext first{1}, same_seed{1}, other_seed{2};
  run(first, one, "", rate);
  run(same_seed, other, "", rate);
  EXPECT_TRUE(weights(one).equal(weights(other)));
  run(other_seed, other, "", rate);
  EXPECT_FALSE(weights(one).equal(weights(other)));
}

TEST(Retrain, TrainsOnceOnTheCleanImages) {
  const FixedRate rate;
  FakeContext context;
  FakeModel model{2, 4};
  run(context, model, "", rate);
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{6});
  const TrainingOptions& options = context.trainer().fits.at(0);
  EXPECT_EQ(options.epochs, 100);
  EXPECT_EQ(options.batch_size, 128);
  EXPECT_EQ(options.scheduler, &rate);
  EXPECT_EQ(options.step, nullptr);
  EXPECT_EQ(options.trainable, Part::whole);
  EXPECT_EQ(options.optimizer.kind, OptimizerKind::sgd);
  EXPECT_TRUE(options.augment);
}

TEST(Retrain, UsesTheParametersOfTheRecipe) {
  const FixedRate rate;
  FakeContext context;
  FakeModel model{2, 4};
  run(context, model, "epochs = 3\nbatch_size = 7", rate);
  EXPECT_EQ(context.trainer().fits.at(0).epochs, 3);
  EXPECT_EQ(context.trainer().fits.at(0).batch_size, 7);
}
