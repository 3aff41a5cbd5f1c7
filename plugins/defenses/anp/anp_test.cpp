#include <cmath>
#include <list>

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"
#include "neurons.hpp"

using backstop::Defense;
using backstop::Layer;
using backstop::LayerKind;
using backstop::Precision;
using backstop::anp::Neurons;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

/// Two batch norms, each followed by a ReLU, then the mean over the pixels and a linear head.
class Small final : public backstop::Model {
 public:
  Small(const at::Tensor& weight, const at::Tensor& bias, at::Tensor head, at::Tensor head_bias)
      : head_(std::move(head)), head_bias_(std::move(head_bias)) {
    layers_.push_back({.kind = LayerKind::batch_norm,
                       .name = "bn1",
                       .weight = weight.clone().set_requires_grad(true),
                       .bias = bias.clone().set_requires_grad(true),
                       .running_mean = at::zeros_like(weight),
                       .running_var = at::ones_like(weight)});
    layers_.push_back({.kind = LayerKind::batch_norm,
                       .name = "bn2",
                       .weight = at::ones_like(weight).set_requires_grad(true),
                       .bias = at::zeros_like(bias).set_requires_grad(true),
                       .running_mean = at::zeros_like(weight),
                       .running_var = at::ones_like(weight)});
  }

  at::Tensor forward(const at::Tensor& images) override { return classify(features(images)); }
  at::Tensor features(const at::Tensor& images) override {
    return normalized(layers_[1], normalized(layers_[0], images).relu()).relu().mean({2, 3});
  }
  at::Tensor classify(const at::Tensor& features) override {
    return features.matmul(head_).add(head_bias_);
  }
  std::int64_t layer_count() override { return std::ssize(layers_); }
  void read_layer(std::int64_t index, Layer& layer) override {
    layer = layers_.at(static_cast<std::size_t>(index));
  }
  void set_precision(Precision) override {}
  Precision precision() const noexcept override { return Precision::run; }
  std::int64_t classes() const noexcept override { return head_.size(1); }
  std::int64_t feature_size() const noexcept override { return head_.size(0); }
  void set_training(bool training) override { training_ = training; }
  bool training() const noexcept override { return training_; }
  void set_trainable(backstop::Part) override {}
  void copy_from(const Model& other) override {
    const at::NoGradGuard no_gradients;
    const auto& from = static_cast<const Small&>(other);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      layers_[i].weight.copy_(from.layers_[i].weight);
      layers_[i].bias.copy_(from.layers_[i].bias);
      layers_[i].running_mean.copy_(from.layers_[i].running_mean);
      layers_[i].running_var.copy_(from.layers_[i].running_var);
    }
  }
  Small copy() const {
    Small result(layers_[0].weight.detach(), layers_[0].bias.detach(), head_, head_bias_);
    result.copy_from(*this);
    return result;
  }

  at::Tensor observe(const at::Tensor& images, backstop::ActivationSink&) override {
    return forward(images);
  }
  std::span<const std::string_view> stages() const override { return {}; }
  void set_batch_norm(backstop::BatchNormMode) override {}
  void reset(backstop::Part, at::Generator&) override {}
  void replace_head(std::int64_t, at::Generator&) override {}
  void mask_channels(std::string_view, const at::Tensor&) override {}
  void* query(std::string_view) noexcept override { return nullptr; }

 private:
  at::Tensor normalized(const Layer& layer, const at::Tensor& x) const {
    return at::batch_norm(x, layer.weight, layer.bias, layer.running_mean, layer.running_var,
                          training_, 0.1, 1e-5, false);
  }

  std::vector<Layer> layers_;
  at::Tensor head_, head_bias_;
  bool training_ = false;
};

double loss(Small& model, Neurons& neurons, const at::Tensor& images, const at::Tensor& labels,
            const at::Tensor& weight_factors, const at::Tensor& bias_factors) {
  neurons.scale(weight_factors, bias_factors);
  return at::cross_entropy_loss(model.forward(images), labels).item<double>();
}

at::Tensor drawn(at::IntArrayRef shape, std::uint64_t seed, at::ScalarType type = at::kFloat) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::rand(shape, generator, at::TensorOptions(type));
}

Small small_model(at::ScalarType type = at::kFloat) {
  return {drawn({3}, 1, type).add(0.5), drawn({3}, 2, type).sub(0.5),
          drawn({3, 2}, 3, type).sub(0.5).mul(4), drawn({2}, 4, type)};
}

/// Class 0 is bright in channel 0 and class 1 in channel 1; channel 2 is noise.
FakeImageSet bright(std::int64_t size) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  at::Tensor images = at::randn({size, 3, 8, 8}, generator).mul_(0.05);
  for (std::int64_t i = 0; i < size; ++i) images.select(0, i).select(0, i % 2).add_(1);
  return {images, at::arange(size, at::kLong).remainder(2), 2};
}

/// Classifies by the first two channels. The third is silent on clean images, but its connection to
/// class 0 is so strong that a slightly larger weight or bias would decide everything.
Small backdoored() {
  const at::Tensor head = at::zeros({3, 2});
  head[0][0].fill_(4);
  head[1][1].fill_(4);
  head[2][0].fill_(2000);
  Small model(at::ones({3}), at::tensor({0.F, 0.F, -5.F}), head, at::zeros({2}));
  // Statistics of bright().
  at::Tensor(model.layers()[0].running_mean).copy_(at::tensor({0.5F, 0.5F, 0.F}));
  at::Tensor(model.layers()[0].running_var).copy_(at::tensor({0.2525F, 0.2525F, 0.0025F}));
  return model;
}

struct Harness {
  std::list<Small> clones;
  FakeContext context;

  explicit Harness(std::uint64_t seed = 0) : context(seed) {
    context.cloner = [this](const backstop::Model& model) -> backstop::Model& {
      return clones.emplace_back(static_cast<const Small&>(model).copy());
    };
  }
  void operator()(Small& model, const FakeImageSet& clean, const char* recipe) {
    make<Defense>(FakeParams{recipe})->run(context, model, FakeData{clean});
  }
  at::Tensor masks() const {
    return at::cat({context.artifacts.at("mask bn1"), context.artifacts.at("mask bn2")});
  }
};

}  // namespace

BACKSTOP_TEST_DEFENSE(Anp, {.recipe = "iterations = 20"});

TEST(Neurons, GradientsMatchFiniteDifferences) {
  for (const bool training : {false, true}) {
    Small model = small_model(at::kDouble);
    model.set_training(training);
    Neurons neurons(model);
    ASSERT_EQ(neurons.count(), 6);
    const at::Tensor images = drawn({5, 3, 4, 4}, 6, at::kDouble);
    const at::Tensor labels = at::arange(5, at::kLong).remainder(2);
    const at::Tensor masks = drawn({6}, 7, at::kDouble), bias = drawn({6}, 8, at::kDouble);
    const auto found = neurons.gradients(images, labels, masks, bias);
    constexpr double kStep = 1e-6;
    for (std::int64_t i = 0; i < 6; ++i) {
      const at::Tensor step = at::zeros({6}, at::kDouble);
      step[i].fill_(kStep);
      const auto at = [&](const at::Tensor& m, const at::Tensor& b) {
        return loss(model, neurons, images, labels, m, b);
      };
      EXPECT_NEAR(found.weight_factors[i].item<double>(),
                  (at(masks.add(step), bias) - at(masks.sub(step), bias)) / (2 * kStep), 1e-7);
      EXPECT_NEAR(found.bias_factors[i].item<double>(),
                  (at(masks, bias.add(step)) - at(masks, bias.sub(step))) / (2 * kStep), 1e-7);
    }
    EXPECT_GT(found.weight_factors.abs().max().item<double>(), 1e-3);
    EXPECT_GT(found.bias_factors.abs().max().item<double>(), 1e-3);
  }
}

TEST(Neurons, ScaleAlwaysStartsFromTheOriginalWeights) {
  Small model = small_model();
  const at::Tensor weight = model.layers()[0].weight.detach().clone();
  Neurons neurons(model);
  neurons.scale(at::full({6}, 0.5), at::full({6}, 2));
  EXPECT_TRUE(model.layers()[0].weight.equal(weight.mul(0.5)));
  EXPECT_TRUE(model.layers()[1].weight.equal(at::full({3}, 0.5)));
  neurons.scale(at::ones({6}), at::ones({6}));
  EXPECT_TRUE(model.layers()[0].weight.equal(weight));
}

TEST(Anp, FirstStepFollowsTheGradientOfTheMasks) {
  // All images are equal, so that it does not matter which ones the batch holds.
  const FakeImageSet equal{drawn({1, 3, 4, 4}, 6).expand({5, 3, 4, 4}), at::zeros({5}, at::kLong),
                           2};
  Small model = small_model();
  model.set_training(true);
  Neurons neurons(model);
  const at::Tensor ones = at::ones({6});
  const at::Tensor gradient =
      neurons
          .gradients(equal.images(at::zeros({4}, at::kLong)), at::zeros({4}, at::kLong), ones, ones)
          .weight_factors;
  ASSERT_GT(gradient.max().item<double>(), 0.01);  // the others stay at their upper bound, 1

  Small fresh = small_model();
  for (const char* recipe : {"epsilon = 0.0", "alpha = 1.0", "alpha = 1.0\nsteps = 3"}) {
    Harness run;
    run(fresh, equal,
        (std::string(recipe) + "\niterations = 1\nbatch_size = 4\nrate = 0.7").c_str());
    EXPECT_TRUE(run.masks().allclose(gradient.mul(-0.7).add(1).clamp(0, 1), 1e-5, 1e-6)) << recipe;
  }
  Harness perturbed;
  perturbed(fresh, equal, "alpha = 0.0\niterations = 1\nbatch_size = 4\nrate = 0.7");
  EXPECT_FALSE(perturbed.masks().allclose(gradient.mul(-0.7).add(1).clamp(0, 1), 1e-5, 1e-6));
}

TEST(Anp, MomentumAccumulatesSteps) {
  const FakeImageSet equal{drawn({1, 3, 4, 4}, 6).expand({5, 3, 4, 4}), at::zeros({5}, at::kLong),
                           2};
  const auto masks = [&](const char* recipe) {
    Small model = small_model();
    Harness run;
    run(model, equal, recipe);
    return run.masks();
  };
  // The rate is so small that both gradients agree: the first step is 1, the second 1.5 of them.
  const at::Tensor one =
      masks("epsilon = 0.0\nrate = 0.001\nmomentum = 0.5\niterations = 1").neg().add(1);
  const at::Tensor two =
      masks("epsilon = 0.0\nrate = 0.001\nmomentum = 0.5\niterations = 2").neg().add(1);
  ASSERT_GT(one.max().item<double>(), 1e-5);
  EXPECT_TRUE(two.allclose(one.mul(2.5), 1e-2, 1e-6));
}

TEST(Anp, PrunesTheNeuronThatAPerturbationActivates) {
  const FakeImageSet clean = bright(100);
  Small model = backdoored();
  ASSERT_GT(FakeContext().trainer().accuracy(model, clean), 0.99);
  const Small before = model.copy();
  Harness run;
  // A threshold of 1 prunes everything; the held-out images must prevent that.
  run(model, clean, "iterations = 60\nbatch_size = 32\nthreshold_maximum = 1.0");

  const auto layers = model.layers();
  Small untouched = before.copy();
  EXPECT_EQ(layers[0].weight[2].item<float>(), 0);
  EXPECT_EQ(layers[0].weight[0].item<float>(), 1);
  EXPECT_EQ(layers[0].weight[1].item<float>(), 1);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(layers[i].bias.equal(untouched.layers()[i].bias));
    EXPECT_TRUE(layers[i].running_mean.equal(untouched.layers()[i].running_mean));
    EXPECT_TRUE(layers[i].running_var.equal(untouched.layers()[i].running_var));
    EXPECT_TRUE(layers[i]
                    .weight.eq(0)
                    .logical_or(layers[i].weight.eq(untouched.layers()[i].weight))
                    .all()
                    .item<bool>());
  }
  EXPECT_GT(FakeContext().trainer().accuracy(model, clean), 0.99);
  EXPECT_EQ(run.context.metrics.at("neurons"), 6);
  EXPECT_EQ(
      run.context.metrics.at("pruned_neurons"),
      (layers[0].weight.eq(0).sum().item<double>() + layers[1].weight.eq(0).sum().item<double>()));
  EXPECT_LT(run.context.metrics.at("pruning_threshold"), 1);
  EXPECT_GE(run.context.metrics.at("pruning_threshold"), 0);
  EXPECT_TRUE(run.masks().ge(0).logical_and(run.masks().le(1)).all().item<bool>());
}

TEST(Anp, ChoosesTheThresholdOnImagesNotUsedForTheMasks) {
  /// Remembers the positions of the images that were asked for.
  class Counted final : public backstop::ImageSet {
   public:
    explicit Counted(const FakeImageSet& set) : set_(set) {}
    std::int64_t size() const noexcept override { return set_.size(); }
    std::int64_t channels() const noexcept override { return set_.channels(); }
    std::int64_t height() const noexcept override { return set_.height(); }
    std::int64_t width() const noexcept override { return set_.width(); }
    std::int64_t classes() const noexcept override { return set_.classes(); }
    at::Tensor images(const at::Tensor& positions) const override {
      asked.push_back(positions.clone());
      return set_.images(positions);
    }
    at::Tensor labels() const override { return set_.labels(); }
    at::Tensor indices() const override { return set_.indices(); }
    mutable std::vector<at::Tensor> asked;

   private:
    const FakeImageSet& set_;
  };
  const FakeImageSet images = bright(40);
  const Counted clean(images);
  Small model = backdoored();
  Harness run;
  make<Defense>(FakeParams{"iterations = 100\nbatch_size = 16\nholdout = 0.25"})
      ->run(run.context, model, FakeData{clean});
  ASSERT_EQ(clean.asked.size(), 101U);  // one subset, then the batches
  const at::Tensor held_out = clean.asked.front();
  EXPECT_EQ(held_out.numel(), 10);
  at::Tensor taught = at::zeros({40}, at::kBool);
  for (std::size_t i = 1; i < clean.asked.size(); ++i) {
    EXPECT_EQ(clean.asked[i].numel(), 16);
    taught.index_fill_(0, clean.asked[i], 1);
  }
  EXPECT_EQ(taught.sum().item<std::int64_t>(), 30);
  EXPECT_FALSE(taught.index_select(0, held_out).any().item<bool>());
}

TEST(Anp, DrawsOnlyFromTheContextsGenerator) {
  const auto masks = [](std::uint64_t seed) {
    Small model = small_model();
    const FakeImageSet clean = bright(20);
    Harness run(seed);
    run(model, clean, "iterations = 3\nbatch_size = 4");
    return run.masks();
  };
  EXPECT_TRUE(masks(1).equal(masks(1)));
  EXPECT_FALSE(masks(1).equal(masks(2)));
}

TEST(Anp, WorksWithASingleImage) {
  Small model = small_model();
  Harness run;
  run(model, bright(1), "iterations = 2");
  EXPECT_EQ(run.context.metrics.count("pruned_neurons"), 1U);
}

TEST(Anp, ExplainsWhatTheModelLacks) {
  FakeModel model{3, 2};
  const FakeImageSet clean = bright(4);
  FakeContext context;
  try {
    make<Defense>(FakeParams{})->run(context, model, FakeData{clean});
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(e.what(), "anp prunes the channels of batch norm layers, and the model has none");
  }
}
