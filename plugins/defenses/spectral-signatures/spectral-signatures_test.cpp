#include <tuple>
#include <vector>

#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Defense;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::images_with_features;
using backstop::testing::make;

namespace {

void run(FakeContext& context, FakeModel& model, const char* recipe,
         const backstop::ImageSet& training) {
  const FakeParams params{recipe};
  const FakeImageSet none{at::zeros({0, 1, 1, 1}), at::zeros({0}, at::kLong), 1};
  make<Defense>(params)->run(context, model, FakeData{none, &training});
}

/// The context after a run on these images.
FakeContext after(const char* recipe, const backstop::ImageSet& training) {
  FakeContext context;
  FakeModel model{training.channels(), training.classes()};
  run(context, model, recipe, training);
  return context;
}

std::vector<std::int64_t> flagged(const FakeContext& context) {
  const at::Tensor f = context.flagged;
  return {f.data_ptr<std::int64_t>(), f.data_ptr<std::int64_t>() + f.numel()};
}

/// One class of 20 images far from the origin. Three of them, the poisoned ones, lie apart.
FakeImageSet poisoned_set() {
  at::Generator generator = at::detail::createCPUGenerator(3);
  at::Tensor features = at::randn({20, 3}, generator).mul(0.01).add(5);
  for (const std::int64_t position : {4, 9, 17}) features.select(0, position).select(0, 1).add_(1);
  return images_with_features(features, at::zeros({20}, at::kLong), 1);
}

/// 30 images of class 0 and 10 of class 1, mixed.
FakeImageSet random_set() {
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor labels = at::arange(40, at::kLong).remainder(4).eq(2).to(at::kLong);
  return images_with_features(at::randn({40, 4}, generator).add(2), labels, 2);
}

}  // namespace

BACKSTOP_TEST_DEFENSE(SpectralSignatures);

TEST(SpectralSignatures, FindsThePoisonAndNothingElse) {
  const FakeContext context = after("", poisoned_set());  // 1.5 * 0.1 * 20 = 3
  const at::Tensor ascending = std::get<0>(context.flagged.sort());
  EXPECT_TRUE(ascending.equal(at::tensor({4, 9, 17}, at::kLong)));
  EXPECT_EQ(context.metrics.at("flagged_images"), 3);
}

TEST(SpectralSignatures, FlagsByIndexInTheDatasetNotByPositionInTheSet) {
  FakeContext owner;
  const auto& backwards =
      owner.subset(poisoned_set(), at::arange(20, at::kLong).flip(0).contiguous());
  const FakeContext context = after("", backwards);
  const at::Tensor ascending = std::get<0>(context.flagged.sort());
  EXPECT_TRUE(ascending.equal(at::tensor({4, 9, 17}, at::kLong)));
}

TEST(SpectralSignatures, ScoresFollowTheTopSingularVectorOfEachClass) {
  const FakeImageSet set = random_set();
  const at::Tensor scores = after("", set).artifacts.at("scores");
  for (std::int64_t label : {0, 1}) {
    const at::Tensor members = set.labels().eq(label).nonzero().squeeze(1);
    const at::Tensor features = set.images(members).flatten(1).to(at::kDouble);
    const at::Tensor centered = features.sub(features.mean(0, true));
    const at::Tensor vh = std::get<2>(at::linalg_svd(centered, false));
    const at::Tensor expected = centered.matmul(vh.select(0, 0)).square();
    EXPECT_TRUE(scores.index_select(0, members).allclose(expected, 1e-9, 1e-12));
  }
}

TEST(SpectralSignatures, ReportsTheScoreOfEveryImage) {
  FakeContext owner;
  const auto& backwards =
      owner.subset(poisoned_set(), at::arange(20, at::kLong).flip(0).contiguous());
  const FakeContext context = after("", backwards);
  EXPECT_TRUE(context.scored.equal(backwards.indices()));
  EXPECT_TRUE(context.poison_scores.equal(context.artifacts.at("scores")));
}

TEST(SpectralSignatures, RemovesTheLargestScoresOfEveryClass) {
  const FakeImageSet set = random_set();
  const FakeContext context = after("expected_poison = 0.2\nremoval_factor = 2.0", set);
  const at::Tensor scores = context.artifacts.at("scores");
  at::Tensor removed = at::zeros({40}, at::kBool);
  removed.index_fill_(0, context.flagged, true);
  const std::vector<std::int64_t> expected{12, 4};
  for (std::int64_t label : {0, 1}) {
    const at::Tensor own = set.labels().eq(label);
    const at::Tensor gone = scores.masked_select(own.logical_and(removed));
    const at::Tensor kept = scores.masked_select(own.logical_and(removed.logical_not()));
    EXPECT_EQ(gone.numel(), expected[static_cast<std::size_t>(label)]);
    EXPECT_GT(gone.min().item<double>(), kept.max().item<double>());
  }
}

TEST(SpectralSignatures, TrainsFromScratchOnTheRest) {
  FakeContext context{1}, again{1};
  FakeModel model{3, 1}, other{3, 1};
  other.layers()[0].weight.detach().fill_(7);
  run(context, model, "epochs = 7\nbatch_size = 9", poisoned_set());
  run(again, other, "epochs = 7\nbatch_size = 9", poisoned_set());
  EXPECT_TRUE(model.layers()[0].weight.equal(other.layers()[0].weight));
  ASSERT_EQ(context.trainer().sizes, std::vector<std::int64_t>{17});
  const at::Tensor rest =
      at::tensor({0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 18, 19}, at::kLong);
  EXPECT_TRUE(context.trainer()
                  .sets.at(0)
                  ->images(at::arange(17, at::kLong))
                  .equal(poisoned_set().images(rest)));
  const auto& options = context.trainer().fits.at(0);
  EXPECT_EQ(options.epochs, 7);
  EXPECT_EQ(options.batch_size, 9);
  EXPECT_EQ(options.step, nullptr);
  EXPECT_EQ(options.trainable, backstop::Part::whole);
  EXPECT_NE(options.scheduler, nullptr);
}

TEST(SpectralSignatures, LeavesAtLeastOneImageOfEveryClass) {
  // Class 0 has no image, class 1 has one, class 2 two, class 3 five equal ones.
  const at::Tensor labels = at::tensor({1, 2, 2, 3, 3, 3, 3, 3}, at::kLong);
  const at::Tensor features = at::tensor({0.3, 0.1, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5}).view({8, 1});
  FakeContext context = after("expected_poison = 0.99\nremoval_factor = 1.0",
                              images_with_features(features, labels, 4));
  EXPECT_EQ(flagged(context).size(), 5U);
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{3});
  EXPECT_EQ(flagged(after("", images_with_features(features, labels, 4))).size(), 1U);  // 0.15 * 5
}

TEST(SpectralSignatures, RefusesToRemoveWholeClasses) {
  FakeContext context;
  FakeModel model{3, 1};
  try {
    run(context, model, "expected_poison = 0.8", poisoned_set());
    FAIL() << "accepted";
  } catch (const backstop::Error& e) {
    EXPECT_STREQ(e.what(), "`removal_factor` times `expected_poison` must be below 1, got 1.2");
  }
}
