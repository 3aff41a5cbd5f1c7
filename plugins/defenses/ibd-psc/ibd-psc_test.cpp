#include <cmath>
#include <list>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::ActivationSink;
using backstop::BatchNormMode;
using backstop::Defense;
using backstop::Layer;
using backstop::LayerKind;
using backstop::Model;
using backstop::Part;
using backstop::Precision;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::input_detector;
using backstop::testing::make;

namespace {

/// Two classes. The logit of class 1 is x + b, where x is the image's mean and b what the biases of
/// the normalizations add: -(g_1 g_2 ... - 1) times `strength`; that of class 0 is 0.
class NormModel final : public Model {
 public:
  explicit NormModel(std::size_t norms) : names_(norms), layers_(norms) {
    for (std::size_t i = 0; i < norms; ++i) {
      names_[i] = "norm" + std::to_string(i);
      layers_[i].name = names_[i];
      layers_[i].kind = LayerKind::batch_norm;
      layers_[i].weight = at::ones({1});
      layers_[i].bias = at::zeros({1});
    }
  }
  NormModel(const NormModel& other) : NormModel(other.layers_.size()) { copy_from(other); }

  at::Tensor forward(const at::Tensor& images) override {
    double product = 1;
    for (const Layer& layer : layers_) product *= layer.weight.item<double>();
    const at::Tensor logit = images.mean({1, 2, 3}).sub(product - 1);
    return at::cat({logit.unsqueeze(1) * 0, logit.unsqueeze(1)}, 1);
  }
  at::Tensor observe(const at::Tensor& images, ActivationSink&) override { return forward(images); }
  at::Tensor features(const at::Tensor& images) override { return images; }
  at::Tensor classify(const at::Tensor& features) override { return features; }
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
  void set_trainable(Part) override {}
  void set_batch_norm(BatchNormMode) override {}
  void reset(Part, at::Generator&) override {}
  void replace_head(std::int64_t, at::Generator&) override {}
  void mask_channels(std::string_view, const at::Tensor&) override {}
  void copy_from(const Model& other) override {
    const auto& from = dynamic_cast<const NormModel&>(other);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      layers_[i].weight = from.layers_[i].weight.clone();
      layers_[i].bias = from.layers_[i].bias.clone();
    }
  }
  void* query(std::string_view) noexcept override { return nullptr; }

 private:
  std::vector<std::string> names_;
  std::vector<Layer> layers_;
  bool training_ = false;
};

/// Images of one pixel, all of class 1.
FakeImageSet pixels(std::vector<float> values) {
  const auto n = static_cast<std::int64_t>(values.size());
  return {at::tensor(values).view({n, 1, 1, 1}), at::ones({n}, at::kLong), 2};
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

struct Scored {
  at::Tensor scores;
  double first = -1;
  std::size_t warnings = 0;
};

Scored scored(std::size_t norms, const FakeImageSet& clean, const FakeImageSet& images) {
  NormModel model{norms};
  std::list<NormModel> clones;
  FakeContext context{clean};
  context.cloner = [&](const Model& original) -> Model& {
    return clones.emplace_back(dynamic_cast<const NormModel&>(original));
  };
  const FakeParams params{"models = 2"};
  const auto defense = make<Defense>(params);
  auto& detector = input_detector(*defense);
  EXPECT_EQ(detector.prepare(context, model, FakeData{clean}), 0.9);
  Scored result{detector.scores(context, model, all_images(images)),
                context.metrics.at("first_amplified"), context.messages.size()};
  for (const Layer& layer : model.layers()) EXPECT_EQ(layer.weight.item<double>(), 1);
  return result;
}

}  // namespace

TEST(IbdPsc, AveragesTheConfidenceOfTheModelsAfterTheFirstWrongOne) {
  // One amplified layer takes 0.5 from the logit, two take 1.25: the second makes 0.9 negative.
  const Scored result = scored(5, pixels({0.9F, 0.9F}), pixels({0.9F, 8.0F}));
  EXPECT_EQ(result.first, 2);
  EXPECT_EQ(result.warnings, 0U);
  const auto psc = [](double logit) {
    return (sigmoid(logit - std::pow(1.5, 3) + 1) + sigmoid(logit - std::pow(1.5, 4) + 1)) / 2;
  };
  EXPECT_NEAR(result.scores.select(0, 0).item<double>(), psc(0.9), 1e-5);
  EXPECT_NEAR(result.scores.select(0, 1).item<double>(), psc(8), 1e-5);
  EXPECT_GT(result.scores.select(0, 1).item<double>(), 0.9);
}

TEST(IbdPsc, TakesTheLargestNumbersWhereTheModelStaysRight) {
  const Scored result = scored(3, pixels({50.0F}), pixels({1.0F}));
  EXPECT_EQ(result.first, 1);
  EXPECT_EQ(result.warnings, 1U);
  EXPECT_NEAR(result.scores.item<double>(),
              (sigmoid(1 - 1.25) + sigmoid(1 - std::pow(1.5, 3) + 1)) / 2, 1e-5);
}

TEST(IbdPsc, NeedsBatchNormalization) {
  NormModel model{0};
  const FakeImageSet clean = pixels({1.0F});
  FakeContext context{clean};
  const FakeParams params;
  const auto defense = make<Defense>(params);
  EXPECT_THROW(input_detector(*defense).prepare(context, model, FakeData{clean}), backstop::Error);
  EXPECT_THROW(defense->run(context, model, FakeData{clean}), backstop::Error);
}
