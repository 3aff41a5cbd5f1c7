#include <array>
#include <cmath>

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Defense;
using backstop::Layer;
using backstop::LayerKind;
using backstop::Model;
using backstop::Precision;
using backstop::TrainingOptions;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

void defend(const std::string& recipe, FakeContext& context, Model& model,
            const backstop::ImageSet& clean) {
  const FakeParams params{recipe};
  make<Defense>(params)->run(context, model, FakeData{clean});
}

/// Logits (-q, 0) with q = (w^2 + 4 b^2) / 2: the gradient of the cross-entropy of class 0 points
/// along that of q, (w, 4 b). Between w and b there is one more layer, whose running statistics
/// follow the mean of the batch.
class Quadratic final : public Model {
 public:
  Quadratic(double w, double b) {
    layers_[0] = {.kind = LayerKind::linear,
                  .name = "first",
                  .weight = at::full({1}, w).set_requires_grad(true)};
    layers_[1] = {.kind = LayerKind::batch_norm,
                  .name = "norm",
                  .weight = at::ones({1}),  // not trainable
                  .running_mean = at::zeros({1}),
                  .running_var = at::ones({1})};
    layers_[2] = {.kind = LayerKind::linear,
                  .name = "last",
                  .weight = at::zeros({1}),
                  .bias = at::full({1}, b).set_requires_grad(true)};
  }

  at::Tensor forward(const at::Tensor& images) override {
    const at::Tensor w = layers_[0].weight, b = layers_[2].bias;
    seen.push_back(at::cat({w, b}).detach().clone());
    was_training = training_;
    const at::Tensor mean = images.mul(w.view({1, 1, 1, 1})).mean().detach();
    layers_[1].running_mean.mul_(0.9).add_(mean, 0.1);
    layers_[1].running_var.mul_(0.9).add_(mean.abs(), 0.1);
    const at::Tensor q = w.pow(2).add(b.pow(2), 4).div(2);
    return at::cat({q.neg(), at::zeros_like(q)}).unsqueeze(0).expand({images.size(0), 2});
  }
  at::Tensor observe(const at::Tensor& images, backstop::ActivationSink&) override {
    return forward(images);
  }
  at::Tensor features(const at::Tensor&) override { return {}; }
  at::Tensor classify(const at::Tensor&) override { return {}; }
  std::span<const std::string_view> stages() const override { return {}; }
  std::int64_t layer_count() override { return std::ssize(layers_); }
  void read_layer(std::int64_t index, Layer& layer) override {
    layer = layers_.at(static_cast<std::size_t>(index));
  }
  void set_precision(Precision) override {}
  Precision precision() const noexcept override { return Precision::run; }
  std::int64_t classes() const noexcept override { return 2; }
  std::int64_t feature_size() const noexcept override { return 1; }
  void set_training(bool training) override { training_ = training; }
  bool training() const noexcept override { return training_; }
  void set_trainable(backstop::Part) override {}
  void set_batch_norm(backstop::BatchNormMode) override {}
  void reset(backstop::Part, at::Generator&) override {}
  void replace_head(std::int64_t, at::Generator&) override {}
  void mask_channels(std::string_view, const at::Tensor&) override {}
  void copy_from(const Model&) override {}
  void* query(std::string_view) noexcept override { return nullptr; }

  std::vector<at::Tensor> seen;  ///< (w, b) of every pass
  bool was_training = false;

 private:
  std::array<Layer, 3> layers_;
  bool training_ = true;
};

FakeImageSet bright(std::int64_t size) {
  return {at::ones({size, 1, 2, 2}), at::zeros({size}, at::kLong), 2};
}

// One step of the training.
void step(const std::string& recipe, Model& model) {
  FakeContext context;
  defend("epochs = 1\n" + recipe, context, model, bright(4));
}

/// The weights after the ascent from (3, -1) along (3, -4).
at::Tensor ascended(const char* recipe) {
  Quadratic model(3, -1);
  step(recipe, model);
  EXPECT_EQ(model.seen.size(), 2U);
  EXPECT_TRUE(model.seen[0].equal(at::tensor({3.F, -1.F})));
  return model.seen[1];
}

}  // namespace

BACKSTOP_TEST_DEFENSE(FtSam);

TEST(FtSam, AscendsInProportionToTheWeights) {
  // T = (3, 1), T g = (9, -4) of length sqrt(97), T^2 g = (27, -4).
  EXPECT_TRUE(ascended("rho = 9.848857801796104").allclose(at::tensor({30.F, -5.F}), 1e-5));
  // T = (4, 2), T g = (12, -8) of length sqrt(208), T^2 g = (48, -16).
  EXPECT_TRUE(
      ascended("rho = 14.422205101855956\neta = 1.0").allclose(at::tensor({51.F, -17.F}), 1e-5));
  EXPECT_TRUE(ascended("rho = 0.0").equal(at::tensor({3.F, -1.F})));
}

TEST(FtSam, UsesTheGradientAfterTheAscentAndRestoresTheWeights) {
  for (const double w : {3.0, 0.7, 0.3}) {
    Quadratic model(w, -0.7);
    const at::Tensor before = model.layers()[0].weight.detach().clone();
    step("label_smoothing = 0.0", model);
    EXPECT_TRUE(model.layers()[0].weight.equal(before));  // bit for bit
    EXPECT_TRUE(model.layers()[2].bias.equal(at::full({1}, -0.7)));
    // Cross-entropy is ln(1 + e^q), its derivative sigmoid(q) times (w, 4 b).
    const double up = model.seen[1][0].item<double>(), left = model.seen[1][1].item<double>();
    EXPECT_NE(up, before.item<double>());
    const double slope = 1 / (1 + std::exp(-(up * up + 4 * left * left) / 2));
    EXPECT_NEAR(model.layers()[0].weight.grad().item<double>(), slope * up, 1e-4);
    EXPECT_NEAR(model.layers()[2].bias.grad().item<double>(), slope * 4 * left, 1e-4);
  }
}

TEST(FtSam, SmoothsTheLabels) {
  // The derivative by q is the target for class 0, 1 - 0.3 / 2, minus its probability.
  Quadratic model(1, 0.5);
  step("rho = 0.0\nlabel_smoothing = 0.3", model);
  const double probability = 1 / (1 + std::exp(1.0));  // q is 1
  EXPECT_NEAR(model.layers()[0].weight.grad().item<double>(), 0.85 - probability, 1e-6);
}

TEST(FtSam, CountsABatchOnceInTheRunningStatistics) {
  Quadratic model(3, -1);
  step("", model);
  EXPECT_NEAR(model.layers()[1].running_mean.item<double>(), 0.3, 1e-6);
  EXPECT_NEAR(model.layers()[1].running_var.item<double>(), 1.2, 1e-6);
  EXPECT_TRUE(model.was_training);
}

TEST(FtSam, LeavesFrozenWeightsUnchanged) {
  Quadratic model(3, -1);
  step("", model);
  EXPECT_TRUE(model.layers()[1].weight.equal(at::ones({1})));
  EXPECT_FALSE(model.layers()[1].weight.grad().defined());
}

TEST(FtSam, StaysFiniteIfTheGradientIsZero) {
  Quadratic model(0, 0);
  step("", model);
  EXPECT_TRUE(model.seen[1].equal(at::zeros({2})));
}

TEST(FtSam, TrainsTheWholeModelOnTheCleanImages) {
  Quadratic model(3, -1);
  FakeContext context;
  defend("epochs = 3\nbatch_size = 7", context, model, bright(9));
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{9});
  const TrainingOptions& options = context.trainer().fits.at(0);
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.batch_size, 7);
  EXPECT_EQ(options.trainable, backstop::Part::whole);
  EXPECT_EQ(options.batch_norm, backstop::BatchNormMode::normal);
  ASSERT_NE(options.scheduler, nullptr);
  EXPECT_EQ(options.scheduler->rate({}), 0.1);
}
