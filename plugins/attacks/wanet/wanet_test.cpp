#include <cmath>
#include <set>
#include <string>
#include <utility>

#include <ATen/ops/linspace.h>
#include <gtest/gtest.h>

#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::Role;
using backstop::Threat;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeEditor;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::FakeState;
using backstop::testing::FixedRate;
using backstop::testing::make;
using backstop::testing::random_images;

namespace {

constexpr std::int64_t kClasses = 4;

// The images warped by a field with these control points.
at::Tensor warped(const char* recipe, const at::Tensor& points, const at::Tensor& images) {
  const FakeParams params{recipe};
  FakeContext context;
  const auto attack = make<Attack>(params);
  FakeState state;
  state.tensor("control_points", points);
  attack->load(context, {}, state);
  return attack->apply(context, images, Phase::test);
}

// Shows where a pixel comes from: two images [H, W] that rise from 0 to 1, to the right and down.
at::Tensor ramps(std::int64_t height, std::int64_t width) {
  at::Tensor images = at::zeros({2, 1, height, width});
  images[0][0].copy_(at::linspace(0, 1, width));
  images[1][0].copy_(at::linspace(0, 1, height).unsqueeze(1));
  return images;
}

// Keeps what it is given. All its logits are the same; their gradient tells the labels.
class Recorder final : public backstop::Model {
 public:
  at::Tensor forward(const at::Tensor& batch) override {
    images = batch.detach().clone();
    logits_ = at::zeros({batch.size(0), kClasses}).set_requires_grad(true);
    return logits_;
  }
  // The gradient of cross-entropy is negative for the label alone.
  at::Tensor labels() const { return logits_.grad().argmin(1); }

  at::Tensor observe(const at::Tensor& x, backstop::ActivationSink&) override { return x; }
  at::Tensor features(const at::Tensor& x) override { return x; }
  at::Tensor classify(const at::Tensor& x) override { return x; }
  std::span<const std::string_view> stages() const override { return {}; }
  std::int64_t layer_count() override { return 0; }
  void read_layer(std::int64_t, backstop::Layer&) override {}
  void set_precision(backstop::Precision) override {}
  backstop::Precision precision() const noexcept override { return backstop::Precision::run; }
  std::int64_t classes() const noexcept override { return kClasses; }
  std::int64_t feature_size() const noexcept override { return 0; }
  void set_training(bool) override {}
  bool training() const noexcept override { return true; }
  void set_trainable(backstop::Part) override {}
  void set_batch_norm(backstop::BatchNormMode) override {}
  void reset(backstop::Part, at::Generator&) override {}
  void replace_head(std::int64_t, at::Generator&) override {}
  void mask_channels(std::string_view, const at::Tensor&) override {}
  void copy_from(const Model&) override {}
  void* query(std::string_view) noexcept override { return nullptr; }

  at::Tensor images;

 private:
  at::Tensor logits_;
};

// All of an attack's calls, in the host's order, on a clean set.
struct Attacked {
  Attacked(const char* recipe, const FakeImageSet& set, const Threat& threat,
           std::uint64_t seed = 1)
      : params{recipe}, context{seed}, attack{make<Attack>(params)}, editor{set} {
    attack->prepare(context, threat, set);
    attack->poison(context, threat, editor);
    written_before_training = editor.written.size();
    const FixedRate rate;
    backstop::TrainingOptions options;
    options.batch_size = set.size();
    options.scheduler = &rate;
    attack->train(context, threat, model, set, editor, options);
    triggered = attack->apply(context, all_images(set), Phase::test);
    if (context.trainer().batches.empty()) return;  // no training step of its own
    const at::Tensor order = context.trainer().batches.at(0).argsort();
    seen = model.images.index_select(0, order);
    labels = model.labels().index_select(0, order);
  }

  std::set<std::int64_t> positions(Role role) const {
    std::set<std::int64_t> found;
    for (const auto& [position, entry] : editor.written)
      if (entry.role == role) found.insert(position);
    return found;
  }

  FakeParams params;
  FakeContext context;
  decltype(make<Attack>(params)) attack;
  FakeEditor editor;
  Recorder model;
  at::Tensor seen, labels;  ///< what the model was trained on, by position
  std::size_t written_before_training = 0;
  at::Tensor triggered;
};

}  // namespace

BACKSTOP_TEST_ATTACK(WaNet, {}, {.recipe = "mode = \"poison-only\"\ngrid_size = 7"});

TEST(WaNet, IsTheIdentityAtStrengthZero) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor points = at::rand({2, 4, 4}, generator);
  for (const std::int64_t channels : {1, 3})
    for (const std::int64_t side : {28, 32, 96}) {
      const at::Tensor images = at::rand({2, channels, side, side}, generator);
      // Positions are floats in [-1, 1]: they are off by up to a 10^-5th of a pixel.
      EXPECT_TRUE(warped("strength = 0.0", points, images).allclose(images, 0, 2e-5)) << side;
    }
}

TEST(WaNet, ShiftsTheImageByAConstantField) {
  // s P / side is one pixel, 2 / (side - 1): to the right by P = 5, upwards by P = -6.
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor images = at::rand({1, 3, 3, 5}, generator);
  const at::Tensor right = warped("grid_size = 1", at::tensor({5.F, 0.F}).view({2, 1, 1}), images);
  EXPECT_TRUE(right.narrow(3, 0, 4).allclose(images.narrow(3, 1, 4), 0, 1e-5));
  EXPECT_TRUE(right.narrow(3, 4, 1).allclose(images.narrow(3, 4, 1), 0, 1e-5));  // clipped
  const at::Tensor up = warped("grid_size = 1", at::tensor({0.F, -6.F}).view({2, 1, 1}), images);
  EXPECT_TRUE(up.narrow(2, 1, 2).allclose(images.narrow(2, 0, 2), 0, 1e-5));
  EXPECT_TRUE(up.narrow(2, 0, 1).allclose(images.narrow(2, 0, 1), 0, 1e-5));
}

TEST(WaNet, InterpolatesTheFieldThroughItsControlPoints) {
  // Of 7 pixels in a row, every other one is a control point: k = 4, corners aligned.
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor points = at::rand({2, 4, 4}, generator).mul_(2).sub_(1);
  const at::Tensor images = ramps(7, 7);
  const at::Tensor out = warped("strength = 0.8", points, images);
  const at::Tensor moved =
      images.squeeze(1).slice(1, 0, 7, 2).slice(2, 0, 7, 2).add(points, 0.8 / 7 / 2).clamp(0, 1);
  EXPECT_TRUE(out.squeeze(1).slice(1, 0, 7, 2).slice(2, 0, 7, 2).allclose(moved, 0, 1e-5));
  // Halfway between them the cubic with A = -0.75 weighs four points by -3, 19, 19, -3 of 32.
  const at::Tensor row = points[0][1];
  const double middle = row[1].add(row[2]).mul(19).sub(row[0].add(row[3]), 3).item<double>() / 32;
  EXPECT_NEAR(out[0][0][2][3].item<double>(), 0.5 + middle * 0.8 / 7 / 2, 1e-5);
}

TEST(WaNet, EnlargesTheImageByRescaling) {
  const at::Tensor out = warped("grid_rescale = 0.5", at::zeros({2, 4, 4}), ramps(5, 9)).squeeze(1);
  EXPECT_TRUE(out[0].allclose(at::linspace(0.25, 0.75, 9).expand({5, 9}), 0, 1e-5));
  EXPECT_TRUE(out[1].allclose(at::linspace(0.25, 0.75, 5).unsqueeze(1).expand({5, 9}), 0, 1e-5));
}

TEST(WaNet, DrawsAFieldWhoseMeanOffsetIsOne) {
  for (const char* recipe : {"", "grid_size = 7"}) {
    const FakeParams params{recipe};
    FakeContext context;
    const auto attack = make<Attack>(params);
    attack->prepare(context, {}, random_images(1));
    FakeState state;
    attack->save(state);
    const at::Tensor points = state.tensor("control_points");
    const std::int64_t k = params.integer("grid_size");
    EXPECT_EQ(points.sizes(), at::IntArrayRef({2, k, k}));
    EXPECT_NEAR(points.abs().mean().item<double>(), 1, 1e-6);
    EXPECT_LT(points.min().item<double>(), 0);
    EXPECT_GT(points.max().item<double>(), 0);
    EXPECT_FALSE(points[0].equal(points[1]));
  }
}

TEST(WaNet, ChangesEveryImageALittle) {
  for (const std::int64_t channels : {1, 3})
    for (const std::int64_t side : {28, 32, 96}) {
      const FakeParams params;
      FakeContext context;
      const auto attack = make<Attack>(params);
      const FakeImageSet set = random_images(3, channels, side);
      attack->prepare(context, {}, set);
      const at::Tensor images = all_images(set);
      const at::Tensor out = attack->apply(context, images, Phase::train);
      EXPECT_FALSE(out.equal(images));
      EXPECT_TRUE(out.equal(attack->apply(context, images, Phase::test)));
      // A quarter of a pixel on average, and P, of mean 1, is hardly ever above 2.5.
      const at::Tensor moves = attack->apply(context, ramps(side, side), Phase::test)
                                   .sub(ramps(side, side))
                                   .mul(side - 1)
                                   .abs();
      EXPECT_GT(moves.mean().item<double>(), 0.1);
      EXPECT_LT(moves.max().item<double>(), 0.75);
    }
}

TEST(WaNet, RefusesAStateOfAnotherGridSize) {
  const FakeParams params;
  FakeContext context;
  const std::pair<at::Tensor, std::string> cases[] = {
      {at::ones({2, 5, 5}), "the shape [2, 5, 5]"},
      {at::ones({4, 4}), "the shape [4, 4]"},
      {at::ones({1, 4, 4}), "the shape [1, 4, 4]"},
      {at::full({2, 4, 4}, std::nan("")), "values that are not finite"}};
  for (const auto& [points, got] : cases) {
    FakeState state;
    state.tensor("control_points", points);
    try {
      make<Attack>(params)->load(context, {}, state);
      FAIL() << "accepted";
    } catch (const backstop::EnvironmentError& e) {
      EXPECT_EQ(e.what(),
                "the saved warp must have the shape [2, 4, 4] and finite values, got " + got);
    }
  }
}

TEST(WaNet, RefusesMoreNoiseThanThereAreImages) {
  const FakeParams params;
  FakeContext context;
  try {
    make<Attack>(params)->prepare(context, {.poison_ratio = 0.5}, random_images(4));
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(e.what(),
                 "`poison_ratio` * (1 + `noise_ratio`) must be at most 1, got 0.500000 * (1 + "
                 "2.000000)");
  }
}

TEST(WaNet, FitsBothRoundedCountsIntoTheSet) {
  // round(0.5 * 7) = 4 images poisoned leave 3, not 4, for noise.
  const FakeImageSet set = random_images(7);
  const Attacked all{"noise_ratio = 1.0", set, {.classes = kClasses, .poison_ratio = 0.5}};
  EXPECT_EQ(all.positions(Role::poison).size(), 4U);
  EXPECT_EQ(all.positions(Role::cover).size(), 3U);
}

TEST(WaNet, PoisonsAndCoversDifferentImages) {
  for (const char* recipe : {"mode = \"poison-only\"", "mode = \"training-control\""}) {
    const FakeImageSet set = random_images(60);
    const Threat threat{.target = 2, .classes = kClasses, .poison_ratio = 0.1};
    const Attacked done{recipe, set, threat};
    EXPECT_EQ(done.positions(Role::poison).size(), 6U);
    EXPECT_EQ(done.positions(Role::cover).size(), 12U);
    EXPECT_EQ(done.editor.written.size(), 18U);  // no position twice
    for (const auto& [position, entry] : done.editor.written) {
      if (entry.role == Role::poison) {
        EXPECT_EQ(entry.label, 2);
        EXPECT_TRUE(entry.image.equal(done.triggered[position]));
      } else {
        EXPECT_EQ(entry.label, position % kClasses);
        EXPECT_FALSE(entry.image.equal(done.triggered[position]));
        EXPECT_FALSE(entry.image.equal(all_images(set)[position]));
      }
    }
    // The seed decides.
    const Attacked again{recipe, set, threat};
    EXPECT_EQ(again.positions(Role::poison), done.positions(Role::poison));
    EXPECT_EQ(again.positions(Role::cover), done.positions(Role::cover));
    EXPECT_TRUE(again.triggered.equal(done.triggered));
    const Attacked other{recipe, set, threat, 2};
    EXPECT_NE(other.positions(Role::poison), done.positions(Role::poison));
    EXPECT_FALSE(other.triggered.equal(done.triggered));
  }
}

TEST(WaNet, LabelsPoisonAsTheNextClassWithAllToAllAndNoNoise) {
  const FakeImageSet set = random_images(12);
  const Attacked done{
      "noise_ratio = 0.0", set, {.all_to_all = 1, .classes = kClasses, .poison_ratio = 1}};
  EXPECT_EQ(done.positions(Role::poison).size(), 12U);
  for (const auto& [position, entry] : done.editor.written)
    EXPECT_EQ(entry.label, (position + 1) % kClasses);
  EXPECT_TRUE(done.labels.equal(set.labels().add(1).remainder(kClasses)));
  EXPECT_EQ(done.context.metrics.count("noise_training_accuracy"), 0U);
}

TEST(WaNet, LeavesTrainingToTheHostInPoisonOnlyMode) {
  const FakeImageSet set = random_images(20);
  Attacked done{"mode = \"poison-only\"", set, {.classes = kClasses}};
  EXPECT_EQ(done.written_before_training, 6U);
  EXPECT_EQ(done.editor.written.size(), 6U);
  const auto& options = done.context.trainer().fits.at(0);
  EXPECT_EQ(options.step, nullptr);
  EXPECT_TRUE(options.augment);
}

TEST(WaNet, WarpsAndRelabelsTheBatchesInTrainingControl) {
  for (const std::int64_t channels : {1, 3}) {
    const FakeImageSet set = random_images(40, channels);
    const at::Tensor clean = all_images(set);
    Attacked done{"rotation = 0.0", set, {.target = 3, .classes = kClasses, .poison_ratio = 0.2}};
    EXPECT_EQ(done.written_before_training, 0U);
    EXPECT_FALSE(done.context.trainer().fits.at(0).augment);
    const at::Tensor labels = done.labels;
    const auto poisoned = done.positions(Role::poison), noisy = done.positions(Role::cover);
    for (std::int64_t i = 0; i < set.size(); ++i) {
      const at::Tensor seen = done.seen[i];
      EXPECT_EQ(labels[i].item<std::int64_t>(), poisoned.contains(i) ? 3 : i % kClasses);
      EXPECT_EQ(seen.equal(done.triggered[i]), poisoned.contains(i)) << "image " << i;
      EXPECT_EQ(seen.equal(clean[i]), !poisoned.contains(i) && !noisy.contains(i)) << "image " << i;
      // Noise that is published was drawn anew.
      if (noisy.contains(i)) {
        EXPECT_FALSE(seen.equal(done.editor.written.at(i).image));
      }
    }
    EXPECT_TRUE(all_images(set).equal(clean));
  }
}

TEST(WaNet, AddsNoiseOfThePapersStrength) {
  // Without a field of its own the trigger, noise moves by up to half a pixel either way.
  const std::int64_t side = 16;
  const FakeImageSet set{ramps(side, side).repeat({50, 1, 1, 1}), at::zeros({100}, at::kLong),
                         kClasses};
  const Attacked done{"strength = 0.0\nnoise_ratio = 99.0\nrotation = 0.0",
                      set,
                      {.classes = kClasses, .poison_ratio = 0.01}};
  at::Tensor moves = done.seen.sub(all_images(set)).mul(side);  // in units of U / 2
  double largest = 0, sum = 0;
  for (const std::int64_t i : done.positions(Role::cover)) {
    // Not at the edges: clipping there makes moves to the inside of half of them.
    const at::Tensor inner = moves[i].narrow(1, 1, side - 2).narrow(2, 1, side - 2).abs();
    largest = std::max(largest, inner.max().item<double>());
    sum += inner.mean().item<double>();
  }
  EXPECT_LE(largest, 0.5 + 1e-4);
  EXPECT_GT(largest, 0.499);
  EXPECT_NEAR(sum / 99, 0.25, 0.01);
}

TEST(WaNet, TakesNoPixelFromOutsideTheImage) {
  // Black would show at the edges of white images.
  const FakeImageSet set{at::ones({30, 1, 8, 8}), at::zeros({30}, at::kLong), kClasses};
  const Attacked done{"rotation = 0.0\nstrength = 3.0", set, {.classes = kClasses}};
  EXPECT_TRUE(done.seen.allclose(all_images(set), 0, 1e-5));
  EXPECT_TRUE(done.triggered.allclose(all_images(set), 0, 1e-5));
  for (const auto& [position, entry] : done.editor.written)
    EXPECT_TRUE(entry.image.allclose(at::ones({1, 8, 8}), 0, 1e-5));
}

TEST(WaNet, RotatesHalfOfTheImages) {
  const FakeImageSet set{at::ones({400, 1, 16, 16}), at::zeros({400}, at::kLong), kClasses};
  const auto rotated = [&](const char* recipe) {
    const Attacked done{recipe, set, {.classes = kClasses}};
    // A white image has black corners after being rotated.
    const at::Tensor corners = done.seen.select(2, 0).select(2, 0);
    return corners.lt(0.999).sum().item<std::int64_t>();
  };
  EXPECT_EQ(rotated("rotation = 0.0"), 0);
  const std::int64_t count = rotated("");
  EXPECT_GT(count, 150);
  EXPECT_LT(count, 250);
}

TEST(WaNet, MeasuresAccuracyOnNoisyImagesInTheLastEpoch) {
  // The model's logits are all alike: argmax is class 0.
  const FakeImageSet set = random_images(40);
  const Attacked done{"", set, {.target = 3, .classes = kClasses, .poison_ratio = 0.2}};
  double zeros = 0;
  for (const std::int64_t i : done.positions(Role::cover)) zeros += i % kClasses == 0 ? 1 : 0;
  EXPECT_DOUBLE_EQ(done.context.metrics.at("noise_training_accuracy"), zeros / 16);
}
