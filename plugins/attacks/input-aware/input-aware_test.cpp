#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <gtest/gtest.h>

#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"
#include "hourglass.hpp"
#include "losses.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::Role;
using backstop::Threat;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeEditor;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FakeState;
using backstop::testing::make;
using backstop::testing::random_images;

namespace {

constexpr const char* kSmall = "channels = 4\nlevels = 2\nmask_epochs = 1\nrotation = 0.0\n";

at::Tensor random(at::IntArrayRef shape, std::uint64_t seed = 7) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::rand(shape, generator);
}

/// A training set that calls `hook` before the classifier's training reads images for the first
/// time: when the masks have been trained and the pattern network has not.
class HookedSet final : public backstop::ImageSet {
 public:
  HookedSet(const FakeImageSet& set, FakeContext& context) : set_(set), context_(context) {}

  std::int64_t size() const noexcept override { return set_.size(); }
  std::int64_t channels() const noexcept override { return set_.channels(); }
  std::int64_t height() const noexcept override { return set_.height(); }
  std::int64_t width() const noexcept override { return set_.width(); }
  std::int64_t classes() const noexcept override { return set_.classes(); }
  at::Tensor labels() const override { return set_.labels(); }
  at::Tensor indices() const override { return set_.indices(); }
  at::Tensor images(const at::Tensor& positions) const override {
    if (!context_.trainer().fits.empty() && hook) std::exchange(hook, nullptr)();
    return set_.images(positions);
  }

  mutable std::function<void()> hook;

 private:
  const FakeImageSet& set_;
  FakeContext& context_;
};

/// Starts with a share of its largest rate.
class Rising final : public backstop::Scheduler {
 public:
  explicit Rising(double start) : start_(start) {}
  double rate(const backstop::TrainingPosition& position) const override {
    return position.iteration == 0 ? 0.5 * start_ : 0.5;
  }

 private:
  double start_;
};

/// An attack on a small model, up to the end of train().
struct Attacked {
  explicit Attacked(const std::string& recipe, const FakeImageSet& set, const Threat& given = {},
                    std::uint64_t seed = 0, const FakeState* start = nullptr)
      : params(recipe),
        context(seed),
        model(set.channels(), set.classes()),
        threat(given),
        editor(set),
        hooked(set, context),
        attack(make<Attack>(params)) {
    options.epochs = 2;
    options.batch_size = 16;
    if (start) {
      attack->load(context, threat, *start);
    } else {
      attack->prepare(context, threat, set);
    }
  }
  void train() {
    attack->poison(context, threat, editor);
    EXPECT_TRUE(editor.written.empty());
    options.scheduler = scheduler;
    attack->train(context, threat, model, hooked, editor, options);
  }
  FakeState state() const {
    FakeState state;
    attack->save(state);
    return state;
  }
  at::Tensor positions(Role role) const {
    std::vector<std::int64_t> found;
    for (const auto& [position, entry] : editor.written)
      if (entry.role == role) found.push_back(position);
    return at::tensor(found, at::kLong);
  }

  const Rising steady{1};
  const backstop::Scheduler* scheduler = &steady;
  backstop::TrainingOptions options;
  FakeParams params;
  FakeContext context;
  FakeModel model;
  Threat threat;
  FakeEditor editor;
  HookedSet hooked;
  decltype(make<Attack>(params)) attack;
};

Threat threat_of(double ratio) {
  return {.target = 2, .classes = 4, .poison_ratio = ratio};
}

/// The state of an attack of kSmall whose masks are all `mask` (0 or 1), and whose patterns are all
/// squashed(0.3). A few steps of training do not change either.
FakeState constant_state(const FakeImageSet& set, int mask) {
  FakeState state = Attacked(kSmall, set).state();
  const std::string last = ".8.batch_norm.";
  state.tensors.at("pattern" + last + "weight").zero_();
  state.tensors.at("pattern" + last + "bias").fill_(0.3);
  state.tensors.at("mask" + last + "weight").zero_();
  state.tensors.at("mask" + last + "bias").fill_(mask == 0 ? -100 : 100);
  return state;
}

const double kPattern = std::tanh(0.3) / 2 + 0.5;

}  // namespace

BACKSTOP_TEST_ATTACK(InputAware, {.recipe = kSmall, .tolerance = 1e-4});

TEST(Hourglass, HasThePublishedLayers) {
  const Hourglass network{3, 1, 32, 3};
  std::vector<std::int64_t> widths;
  for (const auto& [name, tensor] : network.state()) {
    if (tensor.dim() != 4) continue;
    EXPECT_EQ(tensor.sizes().slice(2), at::IntArrayRef({3, 3})) << name;
    widths.push_back(tensor.size(1));
    widths.push_back(tensor.size(0));
  }
  const std::vector<std::int64_t> expected = {3,   32,  32,  32,  32,  64,  64,  64,  64,
                                              128, 128, 128, 128, 128, 128, 128, 128, 64,
                                              64,  64,  64,  32,  32,  32,  32,  1};
  EXPECT_EQ(widths, expected);
}

TEST(Hourglass, KeepsShapesAndRange) {
  for (std::int64_t channels : {1, 3}) {
    Hourglass network{channels, 2, 4, 3};
    at::Generator generator = at::detail::createCPUGenerator(1);
    network.draw(generator);
    for (std::int64_t side : {28, 32, 96}) {
      for (auto mode : {Hourglass::Mode::training, Hourglass::Mode::evaluation}) {
        const at::Tensor out =
            network.forward(random({2, channels, side, side + 3}), mode, at::kFloat);
        EXPECT_EQ(out.sizes(), at::IntArrayRef({2, 2, side, side + 3}));
        EXPECT_GE(out.min().item<float>(), 0);
        EXPECT_LE(out.max().item<float>(), 1);
        EXPECT_GT(out.std().item<float>(), 0);
      }
    }
  }
}

TEST(Hourglass, DrawsWeightsInTheRangeOfPyTorch) {
  Hourglass network{3, 3, 16, 1};
  at::Generator generator = at::detail::createCPUGenerator(1);
  network.draw(generator);
  for (const auto& [name, tensor] : network.state()) {
    if (tensor.dim() != 4) continue;
    const double bound = 1 / std::sqrt(static_cast<double>(tensor.size(1) * 9));
    EXPECT_LE(tensor.abs().max().item<double>(), bound);
    EXPECT_GT(tensor.abs().max().item<double>(), 0.9 * bound);
  }
}

TEST(Hourglass, SquashesAsPublished) {
  const at::Tensor out = squashed(at::tensor({-100., 0., 1., 100.}, at::kDouble));
  EXPECT_NEAR(out[0].item<double>(), 0, 1e-7);
  EXPECT_EQ(out[1].item<double>(), 0.5);
  EXPECT_NEAR(out[2].item<double>(), 0.880797, 1e-6);
  EXPECT_NEAR(out[3].item<double>(), 1, 1e-7);
}

TEST(Hourglass, ChangesItsStatisticsInTrainingOnly) {
  Hourglass network{1, 1, 4, 1};
  at::Generator generator = at::detail::createCPUGenerator(1);
  network.draw(generator);
  const at::Tensor images = random({2, 1, 8, 8});
  const at::Tensor mean = network.state()[3].second;
  ASSERT_EQ(network.state()[3].first, "0.batch_norm.running_mean");
  network.forward(images, Hourglass::Mode::evaluation, at::kFloat);
  EXPECT_EQ(mean.abs().max().item<float>(), 0);
  network.forward(images, Hourglass::Mode::training, at::kFloat);
  EXPECT_GT(mean.abs().max().item<float>(), 0);
}

TEST(Hourglass, LearnsInBfloat16) {
  Hourglass network{3, 1, 8, 2};
  at::Generator generator = at::detail::createCPUGenerator(1);
  network.draw(generator);
  const auto gradient = [&](at::ScalarType precision) {
    for (at::Tensor& parameter : network.parameters()) parameter.mutable_grad().reset();
    const at::Tensor out =
        network.forward(random({4, 3, 16, 16}), Hourglass::Mode::training, precision);
    EXPECT_EQ(out.scalar_type(), at::kFloat);
    out.mul(random({4, 1, 16, 16}, 3)).sum().backward();
    return network.parameters().at(0).grad().flatten();
  };
  const at::Tensor exact = gradient(at::kFloat), rounded = gradient(at::kBFloat16);
  EXPECT_EQ(rounded.scalar_type(), at::kFloat);
  EXPECT_GT(exact.dot(rounded).div(exact.norm().mul(rounded.norm())).item<double>(), 0.95);
  EXPECT_FALSE(exact.equal(rounded));
}

TEST(Losses, DistanceIsTheRootMeanSquare) {
  const at::Tensor a = at::zeros({2, 1, 2, 2});
  const at::Tensor b = at::tensor({0.F, 0.F, 0.F, 1.F, 0.5F, 0.5F, 0.5F, 0.5F}).view({2, 1, 2, 2});
  EXPECT_TRUE(distances(a, b).allclose(at::tensor({0.5F, 0.5F})));
}

TEST(Losses, DiversityIsTheMeanRatioOfDistances) {
  const at::Tensor zeros = at::zeros({2, 1, 1, 2});
  const at::Tensor x = at::tensor({0.6F, 0.6F, 0.3F, 0.3F}).view({2, 1, 1, 2});
  const at::Tensor y = at::tensor({0.2F, 0.2F, 0.6F, 0.6F}).view({2, 1, 1, 2});
  EXPECT_NEAR(diversity_loss(x, zeros, y, zeros).item<double>(), (3 + 0.5) / 2, 1e-5);
}

TEST(Losses, MasksPayForValuesAboveTheDensityAndForBeingAlike) {
  const at::Tensor images = at::tensor({0.F, 0.F, 1.F, 1.F}).view({2, 1, 1, 2});
  const at::Tensor masks = at::tensor({0.F, 0.1F, 0.F, 0.6F}).view({2, 1, 1, 2});
  // Excess 0.05 and 0.55 of four pixels; d(x) = 1, d(m) = sqrt(0.5^2 / 2), both pairs alike.
  EXPECT_NEAR(mask_loss(images, masks, 0.05, 100, 2).item<double>(),
              100 * 0.6 / 4 + 2 * 1 / std::sqrt(0.125), 1e-4);
}

TEST(Losses, AreFiniteForEqualImagesAndMasks) {
  at::Tensor masks = at::full({3, 1, 4, 4}, 0.5).set_requires_grad(true);
  const at::Tensor loss = mask_loss(at::zeros({3, 1, 4, 4}), masks, 0.5, 100, 1);
  EXPECT_EQ(loss.item<float>(), 0);
  loss.backward();
  EXPECT_EQ(masks.grad().abs().max().item<float>(), 0);
}

TEST(Losses, GradientsThroughTheNetworkAgreeWithFiniteDifferences) {
  Hourglass network{1, 1, 2, 1};
  at::Generator generator = at::detail::createCPUGenerator(5);
  network.draw(generator);
  network.transfer([](const at::Tensor& tensor) { return tensor.to(at::kDouble); });
  const at::Tensor images = random({4, 1, 6, 6}).to(at::kDouble);
  const at::Tensor weights = random({2, 1, 6, 6}, 8).to(at::kDouble);
  const at::Tensor mask = random({2, 1, 6, 6}, 9).to(at::kDouble);
  const auto loss = [&] {
    const at::Tensor p = network.forward(images, Hourglass::Mode::training, at::kDouble);
    const at::Tensor first = images.narrow(0, 0, 2);
    return first.lerp(p.narrow(0, 0, 2), mask)
        .mul(weights)
        .sum()
        .add(diversity_loss(first, images.narrow(0, 2, 2), p.narrow(0, 0, 2), p.narrow(0, 2, 2)));
  };
  loss().backward();
  const at::NoGradGuard no_gradients;
  for (at::Tensor& parameter : network.parameters()) {
    const double gradient = parameter.grad().flatten()[0].item<double>();
    at::Tensor entry = parameter.detach();
    while (entry.dim() > 0) entry = entry.select(0, 0);
    constexpr double kStep = 1e-6;
    const double value = entry.item<double>();
    entry.fill_(value + kStep);
    const double above = loss().item<double>();
    entry.fill_(value - kStep);
    const double below = loss().item<double>();
    entry.fill_(value);
    EXPECT_NEAR(gradient, (above - below) / (2 * kStep), 1e-5 * std::max(1., std::abs(gradient)));
  }
}

TEST(InputAware, ShowsTheImageWhereTheMaskIsZeroAndThePatternWhereItIsOne) {
  const FakeImageSet set = random_images(3);
  for (const int mask : {0, 1}) {
    const FakeState state = constant_state(set, mask);
    Attacked attacked{kSmall, set, {}, 0, &state};
    const at::Tensor out = attacked.attack->apply(attacked.context, all_images(set), Phase::test);
    if (mask == 0) {
      EXPECT_TRUE(out.equal(all_images(set)));
    } else {
      EXPECT_TRUE(out.allclose(at::full(out.sizes(), kPattern), 0, 1e-6));
    }
  }
}

TEST(InputAware, WritesPoisonedAndCrossImagesAtTheEnd) {
  const FakeImageSet set = random_images(40);
  FakeState state = constant_state(set, 1);
  state.tensors.at("pattern.8.batch_norm.weight").fill_(50);
  Attacked attacked{kSmall, set, threat_of(0.2), 0, &state};
  attacked.train();
  EXPECT_EQ(attacked.positions(Role::poison).numel(), 8);
  EXPECT_EQ(attacked.positions(Role::cover).numel(), 8);
  const at::Tensor triggered =
      attacked.attack->apply(attacked.context, all_images(set), Phase::train);
  for (const auto& [position, entry] : attacked.editor.written) {
    // With masks of one it is the image's own pattern that is left.
    const at::Tensor differences = triggered.sub(entry.image).abs().amax({1, 2, 3});
    EXPECT_LT(differences.min().item<float>(), 1e-4);
    EXPECT_EQ(differences.argmin().item<std::int64_t>() == position, entry.role == Role::poison);
    EXPECT_EQ(entry.label, entry.role == Role::poison ? 2 : position % 4);
  }
  EXPECT_EQ(attacked.context.metrics.at("mask_density"), 1);
}

TEST(InputAware, CrossesNoMoreImagesThanThereAre) {
  for (const auto& [ratio, poisoned, crossed] :
       {std::tuple{0.5, 20, 20}, {0.75, 30, 10}, {1., 40, 0}}) {
    const FakeImageSet set = random_images(40);
    Attacked attacked{kSmall, set, threat_of(ratio)};
    attacked.train();
    EXPECT_EQ(attacked.positions(Role::poison).numel(), poisoned);
    EXPECT_EQ(attacked.positions(Role::cover).numel(), crossed);
    EXPECT_EQ(attacked.context.metrics.count("cross_accuracy"), crossed > 0 ? 1U : 0U);
  }
  const FakeImageSet set = random_images(40);
  Attacked attacked{std::string(kSmall) + "cross_ratio = 2.5", set, threat_of(0.1)};
  attacked.train();
  EXPECT_EQ(attacked.positions(Role::cover).numel(), 10);
}

// With weights of zero the model gives every class the same probability, and the gradient of its
// weights says which images it saw with which labels.
TEST(InputAware, TrainsTheModelOnPoisonedCrossAndCleanImages) {
  const FakeImageSet set = random_images(40);
  for (const int mask : {0, 1}) {
    const FakeState state = constant_state(set, mask);
    Attacked attacked{kSmall, set, threat_of(0.2), 0, &state};
    attacked.options.epochs = 1;
    attacked.options.batch_size = set.size();
    attacked.train();
    at::Tensor images = all_images(set), labels = set.labels().clone();
    const at::Tensor poisoned = attacked.positions(Role::poison);
    const at::Tensor crossed = attacked.positions(Role::cover);
    labels.index_fill_(0, poisoned, 2);
    if (mask == 1) images.index_fill_(0, at::cat({poisoned, crossed}), kPattern);
    FakeModel model{3, 4};
    at::cross_entropy_loss(model.forward(images), labels).backward();
    EXPECT_TRUE(attacked.model.layers()[0].weight.grad().allclose(model.layers()[0].weight.grad(),
                                                                  0, 1e-6));
    // It answers with the first class.
    EXPECT_NEAR(attacked.context.metrics.at("cross_accuracy"),
                labels.index_select(0, crossed).eq(0).to(at::kDouble).mean().item<double>(), 1e-9);
  }
}

TEST(InputAware, LeavesTheOptionsOfTheRecipeUnchanged) {
  const FakeImageSet set = random_images(20);
  Attacked attacked{kSmall, set, threat_of(0.2)};
  attacked.train();
  ASSERT_EQ(attacked.context.trainer().fits.size(), 1U);
  EXPECT_TRUE(attacked.context.trainer().fits[0].augment);
  EXPECT_EQ(attacked.context.trainer().fits[0].batch_size, 16);
}

TEST(InputAware, FreezesTheMasksWhileItLearnsThePatterns) {
  const FakeImageSet set = random_images(20);
  Attacked attacked{kSmall, set, threat_of(0.2)};
  const FakeState start = attacked.state();
  FakeState between;
  attacked.hooked.hook = [&] { between = attacked.state(); };
  attacked.train();
  ASSERT_FALSE(between.tensors.empty());
  const FakeState end = attacked.state();
  for (const auto& [name, tensor] : between.tensors) {
    const bool of_mask = name.starts_with("mask.");
    EXPECT_EQ(tensor.equal(start.tensor(name)), !of_mask) << name;
    EXPECT_EQ(tensor.equal(end.tensor(name)), of_mask) << name;
  }
}

// Two images are each other's partners, and at a rate that moves little but biases of zero, two
// equal steps have the gradients g and g, or g and 2 g. Adam moves by the rate for an even
// gradient; for the other, with betas 0.5 and 0.9, by (1.25 / 0.75) / sqrt(0.49 / 0.19) of it the
// second time.
TEST(InputAware, AccumulatesTheGeneratorsGradientsOnlyWhenAskedTo) {
  for (const bool accumulate : {false, true}) {
    const FakeImageSet set = random_images(2);
    Attacked attacked{std::string(kSmall) + "generator_rate = 1e-9\ncross_ratio = 0.0\n" +
                          "accumulate_generator_gradients = " + (accumulate ? "true" : "false"),
                      set, threat_of(0.5)};
    attacked.train();
    const double expected = accumulate ? 1 + 1.25 / 0.75 / std::sqrt(0.49 / 0.19) : 2;
    const at::Tensor moved = attacked.state().tensor("pattern.8.batch_norm.bias").abs();
    EXPECT_TRUE(moved.allclose(at::full({3}, expected * 1e-9), 1e-3, 0)) << moved;
  }
}

// With equal gradients both of Adam's steps are as long as its rate, which is the largest in the
// second.
TEST(InputAware, TrainsThePatternNetworkByTheClassifiersSchedule) {
  for (const double share : {0.25, 1.0}) {
    const FakeImageSet set = random_images(2);
    const Rising rising(share);
    Attacked attacked{std::string(kSmall) + "generator_rate = 1e-9\ncross_ratio = 0.0", set,
                      threat_of(0.5)};
    attacked.scheduler = &rising;
    attacked.train();
    const at::Tensor moved = attacked.state().tensor("pattern.8.batch_norm.bias").abs();
    EXPECT_TRUE(moved.allclose(at::full({3}, (share + 1) * 1e-9), 1e-3, 0)) << moved;
  }
}

TEST(InputAware, LearnsSparseMasks) {
  const FakeImageSet set = random_images(64, 1, 16);
  const auto density = [&](const char* epochs) {
    Attacked attacked{"channels = 8\nlevels = 2\nmask_epochs = " + std::string(epochs), set,
                      threat_of(0.25)};
    attacked.train();
    return attacked.context.metrics.at("mask_density");
  };
  EXPECT_GT(density("1"), 0.15);
  EXPECT_LT(density("25"), 0.08);
}

TEST(InputAware, TrainsTheMasksOnTheRequestedNumberOfImages) {
  const FakeImageSet set = random_images(40);
  using Progress = std::pair<std::int64_t, std::int64_t>;
  Attacked all{"channels = 2\nlevels = 2\nmask_epochs = 3", set, threat_of(0.2)};
  all.train();
  EXPECT_EQ(all.context.progress_calls.back(), Progress(120, 120));
  Attacked some{"channels = 2\nlevels = 2\nmask_epochs = 3\nmask_images = 18", set, threat_of(0.2)};
  some.train();
  EXPECT_EQ(some.context.progress_calls.front(), Progress(16, 54));
  EXPECT_EQ(some.context.progress_calls.back(), Progress(54, 54));
}

TEST(InputAware, TrainsOnASingleImage) {
  const FakeImageSet set = random_images(1, 1, 28);
  Attacked attacked{"channels = 2\nmask_epochs = 2", set, threat_of(0.5)};
  attacked.train();
  EXPECT_EQ(attacked.positions(Role::poison).numel(), 1);
  EXPECT_FALSE(attacked.editor.written.at(0).image.isnan().any().item<bool>());
}

TEST(InputAware, RefusesAStateThatDoesNotFit) {
  const FakeImageSet set = random_images(2);
  FakeState state = Attacked(kSmall, set).state();
  for (const char* other : {"channels = 5\nlevels = 2", "channels = 4\nlevels = 1"}) {
    const FakeParams params{other};
    FakeContext context;
    EXPECT_THROW(make<Attack>(params)->load(context, {}, state), backstop::EnvironmentError);
  }
  const FakeParams params{kSmall};
  FakeContext context;
  EXPECT_THROW(make<Attack>(params)->load(context, {}, FakeState{}), backstop::EnvironmentError);
  state.tensors.erase("mask.3.batch_norm.running_var");
  try {
    make<Attack>(params)->load(context, {}, state);
    FAIL() << "accepted";
  } catch (const backstop::EnvironmentError& e) {
    EXPECT_STREQ(e.what(),
                 "the saved networks must have 4 channels and 2 levels, but "
                 "`mask.3.batch_norm.running_var` does not fit");
  }
}

TEST(InputAware, RefusesImagesThatAreTooSmallForItsLevels) {
  const FakeParams params;
  FakeContext context;
  try {
    make<Attack>(params)->prepare(context, {}, random_images(1, 1, 15));
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(e.what(),
                 "networks with 3 levels need images of at least 16 x 16 pixels, got 15 x 15");
  }
}

TEST(InputAware, RefusesImagesWithAnotherNumberOfChannels) {
  const FakeImageSet set = random_images(2);
  Attacked attacked{kSmall, set};
  EXPECT_THROW(attacked.attack->apply(attacked.context, at::zeros({1, 1, 8, 8}), Phase::test),
               backstop::ParameterError);
}

TEST(InputAware, StopsWhenItIsCancelled) {
  const FakeImageSet set = random_images(20);
  Attacked attacked{kSmall, set, threat_of(0.2)};
  attacked.context.cancel = true;
  EXPECT_THROW(attacked.train(), backstop::Cancelled);
  EXPECT_THROW(attacked.attack->apply(attacked.context, all_images(set), Phase::test),
               backstop::Cancelled);
}
