#include <algorithm>
#include <cmath>
#include <vector>

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

/// One feature, one class.
FakeImageSet on_a_line(const std::vector<double>& features) {
  const at::Tensor column = at::tensor(features).view({-1, 1});
  return images_with_features(column, at::zeros({column.size(0)}, at::kLong), 1);
}

void run(FakeContext& context, FakeModel& model, const char* recipe,
         const backstop::ImageSet& training) {
  const FakeParams params{recipe};
  const FakeImageSet none{at::zeros({0, 1, 1, 1}), at::zeros({0}, at::kLong), 1};
  make<Defense>(params)->run(context, model, FakeData{none, &training});
}

/// The context after a run on these images.
FakeContext after(const char* recipe, const backstop::ImageSet& training, std::uint64_t seed = 0) {
  FakeContext context{seed};
  FakeModel model{training.channels(), training.classes()};
  run(context, model, recipe, training);
  return context;
}

std::vector<std::int64_t> flagged(const FakeContext& context) {
  const at::Tensor f = context.flagged;
  return {f.data_ptr<std::int64_t>(), f.data_ptr<std::int64_t>() + f.numel()};
}

double of_class(const FakeContext& context, const char* artifact, std::int64_t label) {
  return context.artifacts.at(artifact).select(0, label).item<double>();
}

/// Class 0 has four groups on a line, which fall into two halves. Class 1 is a cloud, and every
/// fifth image, a poisoned one, lies far from it. The classes alternate.
FakeImageSet poisoned_set() {
  at::Generator generator = at::detail::createCPUGenerator(3);
  const at::Tensor number = at::arange(40, at::kLong);
  const at::Tensor labels = number.remainder(2);
  const at::Tensor group = number.div(2, "floor").remainder(4);
  const at::Tensor place = group.add(group.ge(2)).to(at::kFloat).div(4);  // 0, 1/4, 3/4, 1
  at::Tensor features = at::randn({40, 3}, generator).mul(0.01);
  features.select(1, 0).add_(place.mul(labels.eq(0)));
  features.select(1, 1).add_(number.remainder(10).eq(3).to(at::kFloat));
  return images_with_features(features, labels, 2);
}

const std::vector<std::int64_t> kPoison{3, 13, 23, 33};

}  // namespace

BACKSTOP_TEST_DEFENSE(ActivationClustering, {}, {.recipe = "analysis = \"silhouette\""});

TEST(ActivationClustering, FindsThePoisonAndNothingElse) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    for (const char* recipe : {"", "analysis = \"silhouette\"\nsilhouette_threshold = 0.9"}) {
      const FakeContext context = after(recipe, poisoned_set(), seed);
      EXPECT_EQ(flagged(context), kPoison) << recipe;
      EXPECT_EQ(context.metrics.at("flagged_images"), 4);
      EXPECT_EQ(context.metrics.at("flagged_classes"), 1);
      EXPECT_EQ(of_class(context, "smaller_cluster_share", 0), 0.5);
      EXPECT_EQ(of_class(context, "smaller_cluster_share", 1), 0.2);
      EXPECT_EQ(context.metrics.at("largest_silhouette"), of_class(context, "silhouette", 1));
    }
  }
}

TEST(ActivationClustering, FlagsByIndexInTheDatasetNotByPositionInTheSet) {
  FakeContext owner;
  const auto& backwards =
      owner.subset(poisoned_set(), at::arange(40, at::kLong).flip(0).contiguous());
  EXPECT_EQ(flagged(after("", backwards)), (std::vector<std::int64_t>{33, 23, 13, 3}));
}

TEST(ActivationClustering, ScoresTheImagesOfSmallClusters) {
  const FakeContext sizes = after("", poisoned_set());
  EXPECT_TRUE(sizes.scored.equal(at::arange(40, at::kLong)));
  for (const std::int64_t image : kPoison)
    EXPECT_NEAR(sizes.poison_scores[image].item<double>(), 0.8, 1e-12);  // 4 of 20 images
  EXPECT_EQ(sizes.poison_scores[1].item<double>(), 0);  // in the large cluster of its class
  EXPECT_EQ(sizes.poison_scores.gt(0.5).sum().item<std::int64_t>(), 4);
  const FakeContext shapes = after("analysis = \"silhouette\"", poisoned_set());
  EXPECT_EQ(shapes.poison_scores[3].item<double>(), of_class(shapes, "silhouette", 1));
}

TEST(ActivationClustering, TrainsFromScratchOnTheRest) {
  FakeContext context{1}, again{1};
  FakeModel model{3, 2}, other{3, 2};
  const at::Tensor separating = at::tensor({0., 1., 0., 1., 0., 1.}).view({2, 3});
  other.layers()[0].weight.detach().copy_(separating);
  run(context, model, "epochs = 7\nbatch_size = 9", poisoned_set());
  run(again, other, "epochs = 7\nbatch_size = 9", poisoned_set());
  EXPECT_TRUE(model.layers()[0].weight.equal(other.layers()[0].weight));
  ASSERT_EQ(context.trainer().sizes, std::vector<std::int64_t>{36});
  std::vector<std::int64_t> rest;
  for (std::int64_t i = 0; i < 40; ++i)
    if (std::find(kPoison.begin(), kPoison.end(), i) == kPoison.end()) rest.push_back(i);
  EXPECT_TRUE(context.trainer()
                  .sets.at(0)
                  ->images(at::arange(36, at::kLong))
                  .equal(poisoned_set().images(at::tensor(rest, at::kLong))));
  const auto& options = context.trainer().fits.at(0);
  EXPECT_EQ(options.epochs, 7);
  EXPECT_EQ(options.batch_size, 9);
  EXPECT_EQ(options.step, nullptr);
  EXPECT_EQ(options.trainable, backstop::Part::whole);
  EXPECT_NE(options.scheduler, nullptr);
}

TEST(ActivationClustering, SilhouettesMatchThoseComputedByHand) {
  // a = 1, 1, 2, 2; b = 11, 10, 9.5, 11.5
  EXPECT_NEAR(of_class(after("", on_a_line({0, 1, 10, 12})), "silhouette", 0),
              (10.0 / 11 + 9.0 / 10 + 7.5 / 9.5 + 9.5 / 11.5) / 4, 1e-6);
  // The third image is alone in its cluster, so its silhouette is 0.
  EXPECT_NEAR(of_class(after("", on_a_line({0, 1, 10})), "silhouette", 0), (9.0 / 10 + 8.0 / 9) / 3,
              1e-6);
}

TEST(ActivationClustering, FindsTheBestTwoClustersFromEveryStart) {
  // The corners of a rectangle: Lloyd's algorithm may end with its longer sides as clusters.
  const at::Tensor corners = at::tensor({0., 0., 0., 1., 1.1, 0., 1.1, 1.}).view({4, 2});
  const FakeImageSet set = images_with_features(corners, at::zeros({4}, at::kLong), 1);
  const double b = (1.1 + std::sqrt(1.1 * 1.1 + 1)) / 2;  // and a = 1, a shorter side
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    EXPECT_NEAR(of_class(after("", set, seed), "silhouette", 0), (b - 1) / b, 1e-6);
}

TEST(ActivationClustering, ClustersAlongTheDirectionsOfLargestVariance) {
  // A group of six images and one of four, 1 apart along (0.6, 0.8, 0). Half of each group lies 0.1
  // further along (0, 0, 1), which a single component does not see.
  const at::Tensor number = at::arange(10, at::kLong);
  const at::Tensor group = number.ge(6).to(at::kDouble).view({10, 1});
  const at::Tensor half = number.remainder(2).to(at::kDouble).view({10, 1});
  const at::Tensor features =
      group.mul(at::tensor({0.6, 0.8, 0.})).add(half.mul(at::tensor({0., 0., 0.1})));
  const FakeImageSet set = images_with_features(features, at::zeros({10}, at::kLong), 1);
  const FakeContext one = after("components = 1\nsize_threshold = 0.5", set);
  EXPECT_EQ(flagged(one), (std::vector<std::int64_t>{6, 7, 8, 9}));
  EXPECT_NEAR(of_class(one, "silhouette", 0), 1, 1e-6);
  const FakeContext all = after("size_threshold = 0.5", set);
  EXPECT_EQ(flagged(all), (std::vector<std::int64_t>{6, 7, 8, 9}));
  EXPECT_LT(of_class(all, "silhouette", 0), 0.97);
}

TEST(ActivationClustering, FlagsByTheThresholds) {
  const FakeImageSet set = on_a_line({0, 0.1, 0.2, 0.1, 10});
  EXPECT_EQ(flagged(after("", set)).size(), 1U);  // a share of 0.2
  EXPECT_EQ(flagged(after("size_threshold = 0.2", set)).size(), 0U);
  // One silhouette is 0, and the others are nearly 1.
  const char* below = "analysis = \"silhouette\"\nsilhouette_threshold = 0.75";
  const char* above = "analysis = \"silhouette\"\nsilhouette_threshold = 0.8";
  EXPECT_EQ(flagged(after(below, set)).size(), 1U);
  EXPECT_EQ(flagged(after(above, set)).size(), 0U);
}

TEST(ActivationClustering, HandlesClassesOfZeroOneTwoAndEqualImages) {
  // Class 0 has no image, class 1 has one, class 2 two, class 3 five equal ones.
  const at::Tensor labels = at::tensor({1, 2, 2, 3, 3, 3, 3, 3}, at::kLong);
  const at::Tensor features = at::tensor({0.3, 0.1, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5}).view({8, 1});
  for (const char* recipe : {"", "analysis = \"silhouette\"\nsilhouette_threshold = -1.0"}) {
    const FakeContext context = after(recipe, images_with_features(features, labels, 4));
    const at::Tensor shares = context.artifacts.at("smaller_cluster_share");
    EXPECT_TRUE(shares.equal(at::tensor({0., 0., 0.5, 0.}, at::kDouble)));
    EXPECT_TRUE(context.artifacts.at("silhouette").equal(at::zeros({4}, at::kDouble)));
  }
  EXPECT_EQ(flagged(after("", images_with_features(features, labels, 4))).size(), 0U);
}

TEST(ActivationClustering, EstimatesTheSilhouetteOfALargeClassFromASample) {
  at::Generator generator = at::detail::createCPUGenerator(3);
  at::Tensor features = at::randn({5000, 2}, generator).mul(0.01);
  features.narrow(0, 0, 500).add_(1);
  const FakeContext context =
      after("", images_with_features(features, at::zeros({5000}, at::kLong), 1));
  EXPECT_EQ(context.metrics.at("flagged_images"), 500);
  EXPECT_EQ(of_class(context, "smaller_cluster_share", 0), 0.1);
  EXPECT_NEAR(of_class(context, "silhouette", 0), 0.987, 0.005);  // 1 - 0.0177 / 1.414
}

TEST(ActivationClustering, DrawsOnlyFromTheContextsGenerator) {
  at::Generator generator = at::detail::createCPUGenerator(3);
  const FakeImageSet set =
      images_with_features(at::randn({3000, 4}, generator), at::zeros({3000}, at::kLong), 1);
  const at::Tensor first = after("", set, 1).artifacts.at("silhouette");
  EXPECT_TRUE(after("", set, 1).artifacts.at("silhouette").equal(first));
  EXPECT_FALSE(after("", set, 2).artifacts.at("silhouette").equal(first));  // another sample
}
