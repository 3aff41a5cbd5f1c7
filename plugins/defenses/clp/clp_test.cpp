#include <cmath>
#include <stdexcept>
#include <vector>

#include <ATen/ops/diag_embed.h>
#include <ATen/ops/linalg_svdvals.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Defense;
using backstop::Layer;
using backstop::LayerKind;
using backstop::Precision;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

/// Layers without a forward pass: the defense looks only at weights.
class Weights final : public backstop::Model {
 public:
  void add_convolution(std::string_view name, const at::Tensor& weight) {
    Layer layer;
    layer.name = name;
    layer.weight = weight;
    layers_.push_back(layer);
  }
  void add_batch_norm(std::string_view name, std::int64_t channels) {
    layers_.push_back({.kind = LayerKind::batch_norm,
                       .name = name,
                       .weight = at::ones({channels}),
                       .bias = at::full({channels}, 0.5),
                       .running_mean = at::zeros({channels}),
                       .running_var = at::ones({channels}),
                       .epsilon = 1e-5});
  }
  std::int64_t layer_count() override { return std::ssize(layers_); }
  void read_layer(std::int64_t index, Layer& layer) override {
    layer = layers_.at(static_cast<std::size_t>(index));
  }
  void set_precision(Precision) override {}
  Precision precision() const noexcept override { return Precision::run; }

  at::Tensor forward(const at::Tensor&) override { fail(); }
  at::Tensor observe(const at::Tensor&, backstop::ActivationSink&) override { fail(); }
  at::Tensor features(const at::Tensor&) override { fail(); }
  at::Tensor classify(const at::Tensor&) override { fail(); }
  std::span<const std::string_view> stages() const override { return {}; }
  std::int64_t classes() const noexcept override { return 2; }
  std::int64_t feature_size() const noexcept override { return 1; }
  void set_training(bool) override { fail(); }
  bool training() const noexcept override { return false; }
  void set_trainable(backstop::Part) override { fail(); }
  void set_batch_norm(backstop::BatchNormMode) override { fail(); }
  void reset(backstop::Part, at::Generator&) override { fail(); }
  void replace_head(std::int64_t, at::Generator&) override { fail(); }
  void mask_channels(std::string_view, const at::Tensor&) override { fail(); }
  void copy_from(const Model&) override { fail(); }
  void* query(std::string_view) noexcept override { return nullptr; }

 private:
  [[noreturn]] static void fail() { throw std::logic_error("clp looks only at weights"); }
  std::vector<Layer> layers_;
};

void run(FakeContext& context, Weights& model, const char* recipe = "") {
  const FakeParams params{recipe};
  const FakeImageSet none{at::zeros({0, 1, 8, 8}), at::zeros({0}, at::kLong), 2};
  make<Defense>(params)->run(context, model, FakeData{none});
}

at::Tensor drawn(at::IntArrayRef shape, std::uint64_t seed = 3) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::rand(shape, generator).sub(0.5);
}

}  // namespace

BACKSTOP_TEST_DEFENSE(Clp, {}, {.recipe = "u = 0.0"});

TEST(Clp, BoundIsTheLargestSingularValueTimesTheScaleOfTheBatchNorm) {
  Weights model;
  at::Tensor weight = drawn({5, 4, 3, 3});
  // Two channels known by hand: [4, 9] with 2, 7, 1, 3 on its diagonal, and one of rank 1.
  weight.select(0, 0).zero_();
  weight.select(0, 0).flatten(1).narrow(1, 0, 4).copy_(
      at::diag_embed(at::tensor({2.F, 7.F, 1.F, 3.F})));
  weight.select(0, 1).zero_();
  weight.select(0, 1).select(0, 0).select(0, 0).fill_(2);  // 3 entries equal to 2, and
  weight.select(0, 1).select(0, 1).select(0, 0).fill_(2);  // 3 more: sqrt(6 * 4)
  model.add_convolution("conv1", weight);
  model.add_batch_norm("bn1", 5);
  at::Tensor(model.layers()[1].weight).copy_(at::tensor({2.F, -3.F, 0.5F, 1.F, 1.F}));
  at::Tensor(model.layers()[1].running_var).copy_(at::tensor({4.F, 1.F, 0.25F, 9.F, 0.F}));
  FakeContext context;
  run(context, model);

  const at::Tensor bounds = context.artifacts.at("bounds conv1");
  ASSERT_EQ(bounds.sizes(), at::IntArrayRef({5}));
  EXPECT_NEAR(bounds[0].item<double>(), 7 * 2 / std::sqrt(4 + 1e-5), 1e-6);
  EXPECT_NEAR(bounds[1].item<double>(), std::sqrt(24.0) * 3 / std::sqrt(1 + 1e-5), 1e-6);
  const double scales[] = {0.5 / std::sqrt(0.25 + 1e-5), 1 / std::sqrt(9 + 1e-5),
                           1 / std::sqrt(1e-5)};
  for (std::int64_t k = 2; k < 5; ++k) {
    const double largest = at::linalg_svdvals(weight.select(0, k).reshape({4, 9}).to(at::kDouble))
                               .max()
                               .item<double>();
    EXPECT_NEAR(bounds[k].item<double>() / (largest * scales[k - 2]), 1, 1e-6) << k;
  }
}

TEST(Clp, PrunesOnlyThePlantedChannel) {
  Weights model;
  const at::Tensor weight = drawn({32, 4, 3, 3});
  weight.select(0, 11).mul_(20);
  const at::Tensor before = weight.clone();
  model.add_convolution("layer1.0.conv1", weight);
  model.add_batch_norm("layer1.0.bn1", 32);
  FakeContext context;
  run(context, model);

  const Layer norm = model.layers()[1];
  for (std::int64_t k = 0; k < 32; ++k) {
    EXPECT_EQ(norm.weight[k].item<float>(), k == 11 ? 0.F : 1.F) << k;
    EXPECT_EQ(norm.bias[k].item<float>(), k == 11 ? 0.F : 0.5F) << k;
  }
  EXPECT_TRUE(weight.equal(before));
  EXPECT_EQ(context.metrics.at("channels"), 32);
  EXPECT_EQ(context.metrics.at("pruned_channels"), 1);
  ASSERT_EQ(context.messages.size(), 1U);
  EXPECT_EQ(context.messages[0], "layer1.0.conv1: 1 of 32 channels pruned");
}

TEST(Clp, CountsStandardDeviationsFromTheMeanOfTheLayer) {
  // Bounds 1 (seven times) and 5: mean 1.5, unbiased deviation sqrt(2), so 5 is 2.47 of them away.
  const auto pruned = [](const char* recipe) {
    Weights model;
    at::Tensor weight = at::ones({8, 1, 1, 1});
    weight[7].fill_(5);
    model.add_convolution("conv1", weight);
    model.add_batch_norm("bn1", 8);
    FakeContext context;
    run(context, model, recipe);
    return context.metrics.at("pruned_channels");
  };
  EXPECT_EQ(pruned(""), 0);
  EXPECT_EQ(pruned("u = 2.5"), 0);
  EXPECT_EQ(pruned("u = 2.45"), 1);
}

TEST(Clp, PairsConvolutionsWithTheBatchNormThatReadsThem) {
  Weights model;  // part of a preact-resnet18, then part of a resnet18
  const at::Tensor weight = drawn({8, 8, 3, 3});
  model.add_convolution("conv1", weight);
  model.add_batch_norm("layer1.0.bn1", 8);  // in another module: reads the sum
  model.add_convolution("layer1.0.conv1", weight);
  model.add_batch_norm("layer1.0.bn2", 8);
  model.add_convolution("layer1.0.conv2", weight);
  model.add_convolution("layer1.0.shortcut.0", weight);
  model.add_batch_norm("layer1.1.bn1", 8);
  model.add_convolution("layer2.0.downsample.0", weight);
  model.add_batch_norm("layer2.0.downsample.1", 8);
  model.add_convolution("layer2.0.conv3", weight);
  model.add_batch_norm("layer2.0.bn3", 4);  // with another number of channels
  FakeContext context;
  run(context, model);
  ASSERT_EQ(context.artifacts.size(), 2U);
  EXPECT_EQ(context.artifacts.count("bounds layer1.0.conv1"), 1U);
  EXPECT_EQ(context.artifacts.count("bounds layer2.0.downsample.0"), 1U);
  EXPECT_EQ(context.metrics.at("channels"), 16);
}

TEST(Clp, LeavesALayerWithOneChannelUnchanged) {
  Weights model;
  model.add_convolution("conv1", at::ones({1, 1, 3, 3}));
  model.add_batch_norm("bn1", 1);
  FakeContext context;
  run(context, model, "u = 0.0");
  EXPECT_EQ(model.layers()[1].weight.item<float>(), 1);
}

TEST(Clp, ExplainsWhatTheModelLacks) {
  Weights model;
  model.add_convolution("conv1", at::ones({4, 1, 3, 3}));
  FakeContext context;
  try {
    run(context, model);
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(e.what(),
                 "the model has no convolution that is directly followed by its own batch norm");
  }
}
