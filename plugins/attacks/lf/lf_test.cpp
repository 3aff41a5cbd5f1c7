#include <cmath>
#include <functional>
#include <initializer_list>

#include <ATen/ops/fft_fft2.h>
#include <ATen/ops/fft_fftfreq.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"
#include "perturbation.hpp"

using backstop::Attack;
using backstop::Part;
using backstop::Phase;
using backstop::Threat;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FakeState;
using backstop::testing::make;

namespace {

// Images of all brightnesses, for a linear model of their means to tell apart.
FakeImageSet image_set(std::int64_t size, std::int64_t channels, std::int64_t side = 32) {
  at::Generator generator = at::detail::createCPUGenerator(7);
  const at::Tensor brightness = at::rand({size, channels, 1, 1}, generator);
  return {at::rand({size, channels, side, side}, generator).mul(brightness),
          at::arange(size, at::kLong).remainder(10), 10};
}

FakeImageSet gray(std::int64_t size, std::int64_t channels, std::int64_t side = 8) {
  return {at::full({size, channels, side, side}, 0.25), at::zeros({size}, at::kLong), 10};
}

// The weights [classes, channels] of the clean model that an attack draws.
at::Tensor weights_of_model(std::int64_t channels, std::uint64_t seed = 0) {
  FakeContext twin{seed};
  twin.channels = channels;
  return twin.new_model(twin.generator()).layers()[0].weight.detach();
}

// The class of a gray image of `level`.
std::int64_t class_of_gray(const at::Tensor& weights, double level) {
  return weights.sum(1).mul(level).argmax().item<std::int64_t>();
}

// The class whose weights are furthest from those of `label`: all the way from there to infinity,
// no other class overtakes it.
std::int64_t opposite(const at::Tensor& weights, std::int64_t label) {
  return weights.sub(weights[label]).square().sum(1).argmax().item<std::int64_t>();
}

// A target that DeepFool can reach from some of the set's images.
Threat reachable(const FakeImageSet& set, std::uint64_t seed = 0) {
  const at::Tensor weights = weights_of_model(set.channels(), seed);
  const at::Tensor means = all_images(set).mean({0, 2, 3});
  const auto label = at::matmul(weights, means).argmax().item<std::int64_t>();
  return {.target = opposite(weights, label), .classes = 10};
}

// An attack that was prepared on a set, and what it said on the way.
struct Prepared {
  Prepared(const std::string& recipe, const FakeImageSet& set, std::uint64_t seed = 0)
      : Prepared(recipe, set, reachable(set, seed), seed) {}
  Prepared(const std::string& recipe, const FakeImageSet& set, const Threat& given,
           std::uint64_t seed = 0)
      : params(recipe), context(seed), attack(make<Attack>(params)) {
    context.channels = set.channels();
    attack->prepare(context, given, set);
  }
  at::Tensor trigger() { return context.artifacts.at("trigger"); }
  at::Tensor apply(const at::Tensor& images) { return attack->apply(context, images, Phase::test); }

  FakeParams params;
  FakeContext context;
  decltype(make<Attack>(params)) attack;
};

at::Tensor rescaled(const at::Tensor& v, double amplitude = 0.2) {
  return v.sub(v.min()).div(v.max().sub(v.min())).mul(amplitude);
}

at::Tensor blurred(const at::Tensor& image, double sigma) {
  return at::matmul(at::matmul(low_pass(image.size(1), sigma), image),
                    low_pass(image.size(2), sigma).t());
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const backstop::Error& e) {
    return e.what();
  }
  return "no error";
}

// Two classes and two channels: class 0 likes the first, class 1 the second.
class DeepFool : public ::testing::Test {
 protected:
  void weights(std::initializer_list<float> values, std::initializer_list<float> biases) {
    const at::NoGradGuard guard;
    const auto layer = model_.layers()[0];
    layer.weight.copy_(at::tensor(values).view_as(layer.weight));
    layer.bias.copy_(at::tensor(biases));
  }

  FakeModel model_{2, 3};
};

}  // namespace

BACKSTOP_TEST_ATTACK(LowFrequency,
                     {.recipe = "images = 10\nmax_passes = 2\nmax_iterations = 10", .target = 2});

TEST_F(DeepFool, GoesToTheHyperplaneOfALinearModelAndALittleBeyond) {
  // f = (2a, a + b, -9): from a = 1/2, b = 1/4 to b = a, along (-1, 1).
  weights({2, 0, 1, 1, 0, 0}, {0, 0, -9});
  at::Tensor image = at::full({2, 4, 4}, 0.5);
  image.select(0, 1).fill_(0.25);
  for (const double overshoot : {0.02, 0.5}) {
    const at::Tensor way = deepfool(model_, image, 0, 1, {.iterations = 1, .overshoot = overshoot});
    ASSERT_TRUE(way.defined());
    const double expected = 0.125 * (1 + overshoot);
    EXPECT_TRUE(way.select(0, 0).allclose(at::full({4, 4}, -expected), 1e-5, 0)) << overshoot;
    EXPECT_TRUE(way.select(0, 1).allclose(at::full({4, 4}, expected), 1e-5, 0)) << overshoot;
    EXPECT_EQ(model_.forward(image.add(way).unsqueeze(0)).argmax().item<std::int64_t>(), 1);
  }
}

TEST_F(DeepFool, GivesUpAfterItsIterations) {
  // f = (1, a, 0.9 + 0.5a): on the way from class 0 to class 1 lies class 2, up to a = 1.8.
  weights({0, 0, 1, 0, 0.5, 0}, {1, 0, 0.9F});
  const at::Tensor image = at::zeros({2, 4, 4});
  EXPECT_FALSE(deepfool(model_, image, 0, 1, {.iterations = 1}).defined());
  const at::Tensor way = deepfool(model_, image, 0, 1, {});
  ASSERT_TRUE(way.defined());
  EXPECT_EQ(model_.forward(image.add(way).unsqueeze(0)).argmax().item<std::int64_t>(), 1);
  EXPECT_GT(way.select(0, 0).min().item<double>(), 1.8);
  EXPECT_EQ(way.select(0, 1).abs().max().item<double>(), 0);
}

TEST_F(DeepFool, GivesUpOnAClassThatIsNeverTheMostLikely) {
  // f = (a, 1, 2a) from a = 2: class 0 is always behind class 2, and the steps to it grow.
  weights({1, 0, 0, 0, 2, 0}, {0, 1, 0});
  EXPECT_FALSE(deepfool(model_, at::full({2, 4, 4}, 2.0), 2, 0, {.iterations = 1000}).defined());
}

TEST_F(DeepFool, LeavesAnImageOfAnotherPredictedClassAlone) {
  weights({2, 0, 1, 1, 0, 0}, {0, 0, -9});
  EXPECT_FALSE(deepfool(model_, at::full({2, 4, 4}, 0.5), 1, 2, {}).defined());
}

TEST_F(DeepFool, GivesUpWithoutAGradient) {
  weights({1, 0, 1, 0, 0, 0}, {1, 0, 0});
  EXPECT_FALSE(deepfool(model_, at::full({2, 4, 4}, 0.5), 0, 1, {}).defined());
}

TEST_F(DeepFool, WorksWithoutGradientModeAndLeavesTheWeightsGradientsAlone) {
  weights({2, 0, 1, 1, 0, 0}, {0, 0, -9});
  at::Tensor image = at::full({2, 4, 4}, 0.5);
  image.select(0, 1).fill_(0.25);
  const at::NoGradGuard guard;
  EXPECT_TRUE(deepfool(model_, image, 0, 1, {}).defined());
  EXPECT_FALSE(c10::GradMode::is_enabled());
  EXPECT_FALSE(model_.layers()[0].weight.grad().defined());
}

TEST(LowPass, IsAGaussianWithBlackBeyondTheBorder) {
  const at::Tensor blur = low_pass(9, 1);  // seven taps: 2.5 rounds to three a side
  const double taps[] = {1, std::exp(-0.5), std::exp(-2.0), std::exp(-4.5)};
  const double sum = taps[0] + 2 * (taps[1] + taps[2] + taps[3]);
  for (std::int64_t i = 0; i < 9; ++i)
    for (std::int64_t j = 0; j < 9; ++j)
      EXPECT_NEAR(blur[i][j].item<double>(), std::abs(i - j) > 3 ? 0 : taps[std::abs(i - j)] / sum,
                  1e-6)
          << i << ", " << j;
  EXPECT_NEAR(blur[4].sum().item<double>(), 1, 1e-6);
  EXPECT_NEAR(blur[0].sum().item<double>(), (sum + 1) / 2 / sum, 1e-6);
}

TEST(LowPass, HasThePublishedKernelForItsSigma) {
  const at::Tensor taps = low_pass(63, 6)[31];
  EXPECT_EQ(taps.gt(0).sum().item<std::int64_t>(), 31);
  const at::Tensor distance = at::arange(-31, 32, at::kFloat);
  EXPECT_NEAR(taps.mul(distance.square()).sum().sqrt().item<double>(), 5.7, 0.1);
}

TEST(LowFrequency, FollowsTheGradientWhenNothingIsBlurred) {
  const at::Tensor weights = weights_of_model(3);
  const std::int64_t label = class_of_gray(weights, 0.25);
  const std::int64_t target = opposite(weights, label);
  Prepared one{"sigma = 0.1\nmax_passes = 1", gray(1, 3), {.target = target, .classes = 10}};
  const at::Tensor expected = rescaled(weights[target].sub(weights[label])).view({3, 1, 1});
  EXPECT_TRUE(one.trigger().allclose(expected.expand({3, 8, 8}), 1e-4, 1e-6));
}

TEST(LowFrequency, AddsEveryImagesStepSmoothsItAndRescalesTheSum) {
  const at::Tensor weights = weights_of_model(3);
  const std::int64_t label = class_of_gray(weights, 0.25);
  // The nearest class: one step of DeepFool reaches it.
  const at::Tensor directions = weights.sub(weights[label]);
  const auto target = directions.sum(1)
                          .abs()
                          .div(directions.norm(2, 1))
                          .nan_to_num(9)
                          .argmin()
                          .item<std::int64_t>();
  // Small enough for the second image, the same as the first, to be pushed as well.
  Prepared two{
      "amplitude = 0.01\nmax_passes = 1", gray(2, 3, 16), {.target = target, .classes = 10}};

  constexpr double kSigma = 3;                      // the published 6 is for 32 pixels
  const at::Tensor direction = directions[target];  // of channel means
  at::Tensor v = at::zeros({3, 16, 16});
  for (int image = 0; image < 2; ++image) {
    // The hyperplane is |margin| / |direction| away in the channels' means.
    const at::Tensor means = v.mean({1, 2}).add(0.25);
    const at::Tensor way = direction.mul(
        direction.dot(means).abs().mul(1.02).div(direction.square().sum()).item<double>());
    ASSERT_EQ(at::matmul(weights, means).argmax().item<std::int64_t>(), label);
    ASSERT_EQ(at::matmul(weights, means.add(way)).argmax().item<std::int64_t>(), target);
    const at::Tensor flat = way.view({3, 1, 1}).expand({3, 16, 16});
    v = rescaled(blurred(v.add(blurred(flat, kSigma)), kSigma), 0.01);
  }
  EXPECT_TRUE(two.trigger().allclose(v, 1e-3, 1e-6));
}

TEST(LowFrequency, PushesEachImageToTheNextClassWithAllToAll) {
  std::uint64_t seed = 0;
  at::Tensor weights;
  std::int64_t label = 0, next = 0;
  do {  // a model whose next class can be reached
    weights = weights_of_model(3, ++seed);
    label = class_of_gray(weights, 0.25);
    next = (label + 1) % 10;
  } while (next != opposite(weights, label));
  const Threat threat{.all_to_all = 1, .classes = 10};
  Prepared one{"sigma = 0.1\nmax_passes = 1", gray(1, 3), threat, seed};
  const at::Tensor expected = rescaled(weights[next].sub(weights[label])).view({3, 1, 1});
  EXPECT_TRUE(one.trigger().allclose(expected.expand({3, 8, 8}), 1e-4, 1e-6));
}

TEST(LowFrequency, LeadsAwayFromATargetThatIsPredictedForAllImages) {
  const at::Tensor weights = weights_of_model(3);
  const std::int64_t label = class_of_gray(weights, 0.25);
  const std::int64_t next = weights.sum(1).argsort(-1, true)[1].item<std::int64_t>();
  Prepared one{"sigma = 0.1\nmax_passes = 1", gray(1, 3), {.target = label, .classes = 10}};
  const at::Tensor expected = rescaled(weights[next].sub(weights[label])).view({3, 1, 1});
  EXPECT_TRUE(one.trigger().allclose(expected.expand({3, 8, 8}), 1e-4, 1e-6));
  ASSERT_FALSE(one.context.messages.empty());
  EXPECT_EQ(one.context.messages[0],
            "the clean model predicts the target class for all images, so the perturbation is made "
            "to lead away from it");
}

TEST(LowFrequency, ChangesImagesEvenInEightBits) {
  for (const std::int64_t channels : {1, 3}) {
    for (const std::int64_t side : {28, 32, 96}) {
      const FakeImageSet set = image_set(20, channels, side);
      Prepared made{"max_passes = 2\nmax_iterations = 10", set};
      const at::Tensor images = all_images(set);
      const at::Tensor out = made.apply(images);
      const at::Tensor change = out.mul(255).round().sub(images.mul(255).round()).abs().div(255);
      EXPECT_GT(change.mean().item<double>(), 0.02) << channels << " x " << side;
      EXPECT_NEAR(made.context.metrics.at("mean_absolute_perturbation"),
                  out.sub(images).abs().mean().item<double>(), 1e-6);
      EXPECT_EQ(made.trigger().min().item<float>(), 0);
      EXPECT_FLOAT_EQ(made.trigger().max().item<float>(), 0.2F);
    }
  }
}

TEST(LowFrequency, HasNoHighFrequencies) {
  for (const std::int64_t side : {28, 32, 96}) {
    const FakeImageSet set = image_set(20, 3, side);
    const at::Tensor frequency = at::fft_fftfreq(side).mul(side).square();
    const at::Tensor radius = frequency.unsqueeze(1).add(frequency).sqrt();
    const auto low_share = [&](const at::Tensor& trigger) {
      const at::Tensor energy = at::fft_fft2(trigger).abs().square().sum(0).mul(radius.gt(0));
      return energy.mul(radius.le(3)).sum().div(energy.sum()).item<double>();
    };
    Prepared smooth{"max_passes = 2\nmax_iterations = 10", set};
    EXPECT_GT(low_share(smooth.trigger()), 0.95) << side;
    EXPECT_LT(low_share(all_images(set)[0]), 0.1) << "the measure finds what is not smooth";
  }
}

TEST(LowFrequency, AddsTheTriggerAndClips) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  FakeState state;
  state.tensor("trigger", at::tensor({0.F, 0.125F, 0.25F, 0.5F}).view({1, 2, 2}));
  attack->load(context, {}, state);
  const at::Tensor image = at::tensor({1.F, 0.F, 0.875F, 0.25F}).view({1, 1, 2, 2});
  for (const Phase phase : {Phase::train, Phase::test})
    EXPECT_TRUE(attack->apply(context, image, phase)
                    .equal(at::tensor({1.F, 0.125F, 1.F, 0.75F}).view({1, 1, 2, 2})));
}

TEST(LowFrequency, DrawsOnlyFromTheContextsGenerator) {
  const FakeImageSet set = image_set(30, 3);
  const auto draw = [&](std::uint64_t seed) {
    return Prepared{"images = 10\nmax_passes = 2\nmax_iterations = 10", set, seed}.trigger();
  };
  EXPECT_TRUE(draw(1).equal(draw(1)));
  EXPECT_FALSE(draw(1).equal(draw(2)));
}

TEST(LowFrequency, TrainsACleanModelOnTheTrainingSet) {
  const FakeImageSet set = image_set(20, 3);
  Prepared made{"surrogate_epochs = 3\nsurrogate_batch_size = 7\nimages = 5\nmax_passes = 1", set};
  EXPECT_EQ(made.context.trainer().sizes, std::vector<std::int64_t>{20});
  const backstop::TrainingOptions& options = made.context.trainer().fits.at(0);
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.batch_size, 7);
  EXPECT_EQ(options.scheduler, &made.params.scheduler("surrogate_scheduler"));
  EXPECT_EQ(options.step, nullptr);
  EXPECT_EQ(options.trainable, Part::whole);
  EXPECT_TRUE(options.augment);
  Prepared published{"max_passes = 1", set};
  EXPECT_EQ(published.context.trainer().fits.at(0).epochs, 100);
  EXPECT_EQ(published.context.trainer().fits.at(0).batch_size, 128);
}

TEST(LowFrequency, RefusesACleanModelThatNoImageCanFool) {
  // The fake's loaded model is all zero: class 0 for everything, and no gradient.
  const FakeParams params{"surrogate = \"clean.safetensors\"\nmax_passes = 3"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  const FakeImageSet set = image_set(20, 3);
  EXPECT_EQ(error_of([&] { attack->prepare(context, {.target = 1, .classes = 10}, set); }),
            "DeepFool did not reach the target class from any image (images: 20, passes: 3)");
  EXPECT_EQ(context.loaded, std::vector<std::string>{"clean.safetensors"});
  EXPECT_TRUE(context.trainer().fits.empty());
  EXPECT_NEAR(context.metrics.at("surrogate_accuracy"), 0.1, 1e-12);
}

TEST(LowFrequency, StopsWhenEnoughImagesAreFooled) {
  Prepared made{"amplitude = 1.0\nfooling_rate = 0.01", image_set(50, 3)};
  EXPECT_EQ(made.context.metrics.at("passes"), 1);
  EXPECT_GE(made.context.metrics.at("fooling_rate"), 0.01);
  EXPECT_TRUE(made.context.messages.empty());
}

TEST(LowFrequency, StopsOnAPlateau) {
  // Nothing that small changes a prediction: the rate is 0 in every pass.
  Prepared made{"amplitude = 0.004", gray(1, 3)};
  EXPECT_EQ(made.context.metrics.at("passes"), 5);
  EXPECT_EQ(made.context.metrics.at("fooling_rate"), 0);
  EXPECT_EQ(made.context.messages.back(),
            "the perturbation changes a share of 0.000000 of the predictions, less than the "
            "`fooling_rate` of 0.200000 (images: 1, passes: 5)");
}

TEST(LowFrequency, StopsAfterItsPasses) {
  Prepared made{"amplitude = 0.004\nmax_passes = 3", gray(1, 3)};
  EXPECT_EQ(made.context.metrics.at("passes"), 3);
}

TEST(LowFrequency, ReportsTheFoolingRateOfTheTriggerThatItKeeps) {
  for (const std::uint64_t seed : {1U, 2U, 3U, 4U, 5U, 6U}) {
    const FakeImageSet set = image_set(50, 3);
    Prepared made{"fooling_rate = 1.0\nmax_passes = 4\nmax_iterations = 10", set, seed};
    const at::Tensor weights = weights_of_model(3, seed);
    const auto classes = [&](const at::Tensor& images) {
      return at::matmul(images.mean({2, 3}), weights.t()).argmax(1);
    };
    const at::Tensor fooled = classes(made.apply(all_images(set))).ne(classes(all_images(set)));
    EXPECT_NEAR(made.context.metrics.at("fooling_rate"),
                fooled.to(at::kDouble).mean().item<double>(), 1e-6);
  }
}

TEST(LowFrequency, RefusesADamagedState) {
  const FakeParams params;
  FakeContext context;
  for (const at::Tensor& trigger : {at::ones({8, 8}), at::ones({3, 0, 8})}) {
    FakeState state;
    state.tensor("trigger", trigger);
    EXPECT_THROW(make<Attack>(params)->load(context, {}, state), backstop::EnvironmentError);
  }
}

TEST(LowFrequency, RefusesImagesOfAnotherShape) {
  Prepared made{"max_passes = 1", image_set(5, 3, 8)};
  EXPECT_EQ(error_of([&] {
              made.apply(at::zeros({2, 1, 8, 8}));
            }),
            "the trigger has the shape [3, 8, 8], but the images have [1, 8, 8]");
  EXPECT_THROW(made.apply(at::zeros({2, 3, 8, 9})), backstop::ParameterError);
}

TEST(LowFrequency, StopsWhenTheRunIsInterrupted) {
  const FakeParams params;
  FakeContext context;
  context.cancel = true;
  EXPECT_THROW(make<Attack>(params)->prepare(context, {.classes = 10}, image_set(5, 3)),
               backstop::Cancelled);
}
