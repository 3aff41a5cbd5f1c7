#include "retraining.hpp"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::testing::FakeContext;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FixedRate;

namespace {

/// Six images of two classes.
FakeImageSet six_images() {
  return {at::arange(6).to(at::kFloat).div(10).view({6, 1, 1, 1}),
          at::arange(6, at::kLong).remainder(2), 2};
}

/// Retrains `model` on `set` without its images 1 and 4.
void retrain(FakeContext& context, FakeModel& model, const backstop::ImageSet& set) {
  const FixedRate rate;
  backstop::TrainingOptions options;
  options.epochs = 3;
  options.scheduler = &rate;
  const at::Tensor suspicious = at::tensor({0, 1, 0, 0, 1, 0}).to(at::kBool);
  backstop::retraining::remove_and_retrain(context, model, set, suspicious, options);
}

}  // namespace

TEST(TrainingOptions, ComeFromTheParameters) {
  const FixedRate rate;
  FakeParams params{
      "epochs = 3\nbatch_size = 7\noptimizer = { name = \"adam\", weight_decay = 0.0 }"};
  params.set_scheduler("scheduler", rate);
  const backstop::TrainingOptions options = backstop::training_options(params);
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.batch_size, 7);
  EXPECT_EQ(options.scheduler, &rate);
  EXPECT_EQ(options.optimizer.kind, backstop::OptimizerKind::adam);
  EXPECT_EQ(options.optimizer.weight_decay, 0);
  EXPECT_EQ(options.step, nullptr);
  EXPECT_EQ(options.trainable, backstop::Part::whole);
  EXPECT_TRUE(options.augment);
}

TEST(RemoveAndRetrain, TrainsOnTheImagesThatAreNotSuspicious) {
  const FakeImageSet set = six_images();
  FakeContext context;
  FakeModel model{1, 2};
  retrain(context, model, set);
  ASSERT_EQ(context.trainer().sizes, std::vector<std::int64_t>{4});
  const at::Tensor kept = at::tensor({0, 2, 3, 5}, at::kLong);
  const backstop::ImageSet& rest = *context.trainer().sets.at(0);
  EXPECT_TRUE(rest.images(at::arange(4, at::kLong)).equal(set.images(kept)));
  EXPECT_TRUE(rest.labels().equal(set.labels().index_select(0, kept)));
  EXPECT_EQ(context.trainer().fits.at(0).epochs, 3);
}

TEST(RemoveAndRetrain, FlagsTheSuspiciousImagesByTheirIndicesInTheDataset) {
  FakeContext context;
  const backstop::ImageSet& part =
      context.subset(six_images(), at::tensor({5, 4, 3, 2, 1, 0}, at::kLong));
  FakeModel model{1, 2};
  retrain(context, model, part);
  EXPECT_TRUE(context.flagged.equal(at::tensor({4, 1}, at::kLong)));
  EXPECT_EQ(context.metrics.at("flagged_images"), 2);
}

TEST(RemoveAndRetrain, KeepsNothingOfTheModel) {
  const auto retrained = [](float weight) {
    FakeContext context{1};
    FakeModel model{1, 2};
    model.layers()[0].weight.detach().fill_(weight);
    retrain(context, model, six_images());
    return model.layers()[0].weight.detach();
  };
  EXPECT_TRUE(retrained(0).equal(retrained(7)));
}
