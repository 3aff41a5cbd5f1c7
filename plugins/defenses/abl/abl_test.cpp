#include <cmath>
#include <string>
#include <vector>

#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Defense;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FixedRate;
using backstop::testing::make;

namespace {

constexpr std::int64_t kClasses = 3;
constexpr double kGamma = 0.5;

/// 40 images whose features are normally distributed.
FakeImageSet random_set(std::int64_t size = 40) {
  at::Generator generator = at::detail::createCPUGenerator(3);
  return {at::randn({size, 2, 1, 1}, generator), at::arange(size, at::kLong).remainder(kClasses),
          kClasses};
}

/// The cross-entropy of each image, written out.
std::vector<double> losses_by_hand(const at::Tensor& weight, const at::Tensor& images,
                                   const at::Tensor& labels) {
  std::vector<double> losses;
  const at::Tensor w = weight.to(at::kDouble), x = images.to(at::kDouble).flatten(1);
  for (std::int64_t i = 0; i < x.size(0); ++i) {
    double sum = 0;
    const auto logit = [&](std::int64_t label) {
      return w.select(0, label).dot(x.select(0, i)).item<double>();
    };
    for (std::int64_t label = 0; label < kClasses; ++label) sum += std::exp(logit(label));
    losses.push_back(std::log(sum) - logit(labels.select(0, i).item<std::int64_t>()));
  }
  return losses;
}

double mean_of(const std::vector<double>& values, double (*each)(double)) {
  double sum = 0;
  for (const double value : values) sum += each(value);
  return sum / static_cast<double>(values.size());
}

/// Central differences of the mean of `each` over all images, with respect to the weights.
at::Tensor slope(const at::Tensor& weight, const at::Tensor& images, const at::Tensor& labels,
                 double (*each)(double)) {
  constexpr double kStep = 1e-6;
  at::Tensor result = at::zeros(weight.sizes(), at::kDouble);
  for (std::int64_t row = 0; row < weight.size(0); ++row) {
    for (std::int64_t column = 0; column < weight.size(1); ++column) {
      const auto moved = [&](double by) {
        const at::Tensor w = weight.to(at::kDouble, false, true);
        w.select(0, row).select(0, column).add_(by);
        return mean_of(losses_by_hand(w, images, labels), each);
      };
      result.select(0, row).select(0, column).fill_((moved(kStep) - moved(-kStep)) / (2 * kStep));
    }
  }
  return result;
}

/// The defense after one run on `training`; `context` recorded what it asked for.
struct Defended {
  Defended(const char* recipe, const backstop::ImageSet& training, std::uint64_t seed = 0)
      : context(seed),
        model(training.channels(), training.classes()),
        params(recipe),
        defense(object()) {
    const FakeImageSet none{at::zeros({0, 1, 1, 1}), at::zeros({0}, at::kLong), 1};
    defense->run(context, model, FakeData{none, &training});
  }

  at::Tensor weight() { return model.layers()[0].weight.detach(); }
  at::Tensor gradient() { return model.layers()[0].weight.grad().to(at::kDouble); }

  FixedRate isolation, finetuning;
  FakeContext context;
  FakeModel model;
  FakeParams params;
  decltype(make<Defense>(FakeParams{})) defense;

 private:
  decltype(defense) object() {
    params.set_scheduler("isolation_scheduler", isolation);
    params.set_scheduler("finetuning_scheduler", finetuning);
    return make<Defense>(params);
  }
};

}  // namespace

BACKSTOP_TEST_DEFENSE(Abl, {.recipe = "isolation_ratio = 0.2"},
                      {.recipe = "isolation_ratio = 0.2\nloss = \"flooding\""});

TEST(Abl, TrainsOnAllImagesThenOnTheRestThenOnTheIsolatedOnes) {
  const FakeImageSet set = random_set();
  Defended run{"isolation_ratio = 0.1", set};
  EXPECT_EQ(run.context.trainer().sizes, (std::vector<std::int64_t>{40, 36, 4}));
  const auto& sets = run.context.trainer().sets;
  const at::Tensor order = run.context.artifacts.at("losses").argsort(0, false);
  EXPECT_TRUE(all_images(*sets[1]).equal(set.images(order.narrow(0, 4, 36))));
  EXPECT_TRUE(all_images(*sets[2]).equal(set.images(order.narrow(0, 0, 4))));
  const auto& fits = run.context.trainer().fits;
  EXPECT_EQ(fits[0].epochs, 10);
  EXPECT_EQ(fits[1].epochs, 60);
  EXPECT_EQ(fits[2].epochs, 5);
  EXPECT_EQ(fits[0].scheduler, &run.isolation);
  EXPECT_EQ(fits[1].scheduler, &run.finetuning);
  EXPECT_EQ(fits[2].scheduler->rate({}), 5e-4);
  EXPECT_NE(fits[0].step, nullptr);
  EXPECT_EQ(fits[1].step, nullptr);
  EXPECT_NE(fits[2].step, nullptr);
  for (const auto& options : fits) {
    EXPECT_EQ(options.batch_size, 128);
    EXPECT_EQ(options.trainable, backstop::Part::whole);
    EXPECT_EQ(options.augment, &options != &fits[0]);
  }
}

TEST(Abl, TrainsFromScratch) {
  // The fake trainer leaves the weights as reset() drew them.
  EXPECT_TRUE(Defended("", random_set(), 1).weight().equal(Defended("", random_set(), 1).weight()));
  EXPECT_FALSE(
      Defended("", random_set(), 1).weight().equal(Defended("", random_set(), 2).weight()));
  EXPECT_GT(Defended("", random_set(), 1).weight().abs().min().item<double>(), 0);
}

TEST(Abl, LocalGradientAscentUsesOneSignForTheBatch) {
  const FakeImageSet set = random_set();
  for (const char* gamma : {"gamma = 0.01", "gamma = 100.0"}) {
    Defended run{std::string("isolation_ratio = 0.001\n").append(gamma).c_str(), set};
    const double mean = mean_of(losses_by_hand(run.weight(), all_images(set), set.labels()),
                                [](double loss) { return loss; });
    ASSERT_GT(mean, 0.01);
    ASSERT_LT(mean, 100);
    const bool down = std::string(gamma) == "gamma = 0.01";
    const at::Tensor expected = slope(
        run.weight(), all_images(set), set.labels(),
        down ? +[](double loss) { return loss; } : +[](double loss) { return -loss; });
    EXPECT_TRUE(run.gradient().allclose(expected, 1e-4, 1e-6)) << gamma;
  }
}

TEST(Abl, FloodingUsesTheMeanOverTheBatch) {
  const FakeImageSet set = random_set();
  Defended run{"loss = \"flooding\"\nisolation_ratio = 0.001\ngamma = 100.0", set};
  EXPECT_TRUE(run.gradient().allclose(
      slope(run.weight(), all_images(set), set.labels(), [](double loss) { return -loss; }), 1e-4,
      1e-6));
}

TEST(Abl, PerImageLocalGradientAscentFollowsThePapersFormula) {
  const FakeImageSet set = random_set();
  Defended run{"granularity = \"image\"\nisolation_ratio = 0.001", set};
  const at::Tensor images = all_images(set);
  int below = 0;
  for (const double loss : losses_by_hand(run.weight(), images, set.labels())) {
    ASSERT_GT(std::abs(loss - kGamma), 1e-4);  // no kink within the central differences
    below += loss < kGamma;
  }
  ASSERT_GT(below, 5);
  ASSERT_LT(below, 35);
  const auto lga = [](double loss) { return loss > kGamma ? loss : -loss; };
  EXPECT_TRUE(run.gradient().allclose(slope(run.weight(), images, set.labels(), lga), 1e-4, 1e-6));
}

TEST(Abl, PerImageFloodingFollowsItsFormula) {
  const FakeImageSet set = random_set();
  Defended run{"loss = \"flooding\"\ngranularity = \"image\"\nisolation_ratio = 0.001", set};
  const auto flooding = [](double loss) { return std::abs(loss - kGamma) + kGamma; };
  EXPECT_TRUE(run.gradient().allclose(slope(run.weight(), all_images(set), set.labels(), flooding),
                                      1e-4, 1e-6));
}

TEST(Abl, IsolatesTheImagesWithTheSmallestLosses) {
  const FakeImageSet set = random_set();
  Defended run{"isolation_ratio = 0.2", set};
  const auto losses = losses_by_hand(run.weight(), all_images(set), set.labels());
  const at::Tensor expected = at::tensor(losses, at::kDouble);
  EXPECT_TRUE(run.context.artifacts.at("losses").allclose(expected, 1e-5, 1e-6));
  EXPECT_TRUE(run.context.poison_scores.equal(run.context.artifacts.at("losses").neg()));
  EXPECT_TRUE(run.context.flagged.equal(expected.argsort(0, false).narrow(0, 0, 8)));
  EXPECT_EQ(run.context.metrics.at("isolated_images"), 8);
}

TEST(Abl, FlagsByIndexInTheDatasetNotByPositionInTheSet) {
  const FakeImageSet set = random_set();
  const FakeImageSet part{all_images(set), set.labels(), kClasses, set.indices().neg().add(1000)};
  Defended here{"isolation_ratio = 0.2", set}, there{"isolation_ratio = 0.2", part};
  EXPECT_TRUE(there.context.flagged.equal(here.context.flagged.neg().add(1000)));
}

TEST(Abl, UnlearnsByGradientAscentOnTheIsolatedImages) {
  const FakeImageSet set = random_set();
  Defended run{"isolation_ratio = 0.2", set};
  const at::Tensor isolated = run.context.flagged;
  const auto ascent = [](double loss) { return -loss; };
  const at::Tensor expected =
      slope(run.weight(), set.images(isolated), set.labels().index_select(0, isolated), ascent);
  ASSERT_GT(expected.abs().max().item<double>(), 1e-3);
  EXPECT_TRUE(run.gradient().allclose(expected, 1e-4, 1e-6));
}

TEST(Abl, UnlearnsNothingWithoutAnIsolatedImage) {
  for (std::int64_t size : {1, 2, 40}) {
    Defended run{size == 40 ? "isolation_ratio = 0.01" : "", random_set(size)};
    EXPECT_EQ(run.context.trainer().sizes, (std::vector<std::int64_t>{size, size}));
    EXPECT_EQ(run.context.flagged.numel(), 0);
    EXPECT_EQ(run.context.messages.size(), 1U);
    EXPECT_EQ(run.context.metrics.count("isolated_accuracy"), 0U);
  }
}

TEST(Abl, RefusesToIsolateAllImages) {
  try {
    Defended run{"isolation_ratio = 0.99", random_set(7)};
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(
        e.what(),
        "an `isolation_ratio` of 0.99 leaves none of the 7 training images to fine-tune on");
  }
}

class AblTraining : public ::testing::Test {
 protected:
  // 4 of 40 images are poisoned, with label 0; they share a large second feature.
  AblTraining() {
    at::Generator generator = at::detail::createCPUGenerator(3);
    at::Tensor features = at::randn({40, 2}, generator).mul(0.05);
    const at::Tensor labels = at::arange(40, at::kLong).remainder(2);
    features.select(1, 0).add_(labels.to(at::kFloat).sub(0.5).mul(0.6));
    poison_ = at::tensor({8, 16, 24, 32}, at::kLong);
    features.index_copy_(0, poison_, at::tensor({0.F, 3.F}).repeat({4, 1}));
    set_.emplace_back(features.view({40, 2, 1, 1}), labels, 2);
  }

  void run(const char* recipe) {
    const FakeParams params{recipe};
    context_.trainer().learns = true;
    context_.trainer().after_epoch = [this](backstop::Model& model) {
      histories_.resize(context_.trainer().fits.size());
      histories_.back().push_back(model.layers()[0].weight.detach().clone());
    };
    const FakeImageSet none{at::zeros({0, 2, 1, 1}), at::zeros({0}, at::kLong), 2};
    make<Defense>(params)->run(context_, model_, FakeData{none, &set_[0]});
  }

  at::Tensor poison_;
  std::vector<FakeImageSet> set_;
  FakeContext context_;
  FakeModel model_{2, 2};
  std::vector<std::vector<at::Tensor>> histories_;  ///< of every training: the weights by epoch
};

TEST_F(AblTraining, IsolatesThePoisonAndForgetsIt) {
  run(R"(isolation_ratio = 0.1
         isolation_epochs = 20
         gamma = 0.0
         unlearning_epochs = 200
         unlearning_rate = 0.1)");
  EXPECT_TRUE(std::get<0>(context_.flagged.sort()).equal(poison_));
  EXPECT_EQ(context_.metrics.at("isolated_accuracy"), 0);
  const auto clean = at::arange(40, at::kLong).masked_select(set_[0].indices().remainder(8).ne(0));
  EXPECT_GT(context_.trainer().accuracy(model_, context_.subset(set_[0], clean)), 0.9);
}

TEST_F(AblTraining, EndsTheAscentAsSoonAsEverythingIsForgotten) {
  run(R"(isolation_ratio = 0.1
         isolation_epochs = 20
         gamma = 0.0
         unlearning_epochs = 1000
         unlearning_rate = 0.1)");
  const auto& history = histories_.at(2);
  const auto& isolated = context_.subset(set_[0], context_.flagged);
  std::size_t epoch = 0;
  for (;; ++epoch) {
    ASSERT_LT(epoch, 500U);
    model_.layers()[0].weight.detach().copy_(history[epoch]);
    if (context_.trainer().accuracy(model_, isolated) == 0) break;
  }
  ASSERT_GT(epoch, 1U);
  EXPECT_FALSE(history[epoch].equal(history[epoch - 1]));
  EXPECT_TRUE(history.back().equal(history[epoch]));
  EXPECT_TRUE(history.back().isfinite().all().item<bool>());
}
