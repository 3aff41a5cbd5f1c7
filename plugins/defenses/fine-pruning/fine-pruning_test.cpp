#include <array>

#include <ATen/ops/conv2d.h>
#include <ATen/ops/randperm.h>
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
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

void defend(const std::string& recipe, backstop::Context& context, Model& model,
            const backstop::ImageSet& clean) {
  const FakeParams params{recipe};
  make<Defense>(params)->run(context, model, FakeData{clean});
}

/// Images of class 1 with constant channels 0.1, 0.2, ...
FakeImageSet even_images(std::int64_t size, std::int64_t channels, std::int64_t classes = 2) {
  const at::Tensor values = at::arange(1, channels + 1).to(at::kFloat).div(10);
  return {values.view({1, channels, 1, 1}).expand({size, channels, 4, 4}).contiguous(),
          at::ones({size}, at::kLong), classes};
}

at::Tensor weight_of(Model& model, std::size_t layer = 0) {
  return model.layers()[layer].weight.detach();
}

std::vector<bool> kept_columns(Model& model) {
  const at::Tensor used = weight_of(model).ne(0).any(0);
  std::vector<bool> kept;
  for (std::int64_t c = 0; c < used.size(0); ++c) kept.push_back(used.select(0, c).item<bool>());
  return kept;
}

/// Two stages, each a 1x1 convolution with a ReLU, and a head.
class ConvModel final : public Model {
 public:
  explicit ConvModel(std::int64_t channels, bool with_stages = true) : with_stages_(with_stages) {
    layers_[0] = {.name = "conv1", .weight = at::ones({channels, channels, 1, 1})};
    layers_[1] = {.name = "conv2", .weight = at::ones({channels, channels, 1, 1})};
    layers_[2] = {.kind = LayerKind::linear,
                  .name = "head",
                  .weight = at::ones({2, channels}),
                  .bias = at::zeros({2})};
  }

  at::Tensor forward(const at::Tensor& images) override { return classify(features(images)); }
  at::Tensor observe(const at::Tensor& images, backstop::ActivationSink& sink) override {
    const at::Tensor first = at::conv2d(images, layers_[0].weight).relu();
    sink.activation("first", first);
    const at::Tensor second = at::conv2d(first, layers_[1].weight).relu();
    sink.activation("second", second);
    return classify(second.mean({2, 3}));
  }
  at::Tensor features(const at::Tensor& images) override {
    return at::conv2d(at::conv2d(images, layers_[0].weight).relu(), layers_[1].weight)
        .relu()
        .mean({2, 3});
  }
  at::Tensor classify(const at::Tensor& features) override {
    return at::addmm(layers_[2].bias, features, layers_[2].weight.t());
  }
  std::span<const std::string_view> stages() const override {
    return with_stages_ ? std::span<const std::string_view>(kStages)
                        : std::span<const std::string_view>();
  }
  std::int64_t layer_count() override { return std::ssize(layers_); }
  void read_layer(std::int64_t index, Layer& layer) override {
    layer = layers_.at(static_cast<std::size_t>(index));
  }
  void set_precision(Precision) override {}
  Precision precision() const noexcept override { return Precision::run; }
  std::int64_t classes() const noexcept override { return 2; }
  std::int64_t feature_size() const noexcept override { return layers_[2].weight.size(1); }
  void set_training(bool training) override { training_ = training; }
  bool training() const noexcept override { return training_; }
  void set_trainable(backstop::Part) override {}
  void set_batch_norm(backstop::BatchNormMode) override {}
  void reset(backstop::Part, at::Generator&) override {}
  void replace_head(std::int64_t, at::Generator&) override {}
  void mask_channels(std::string_view name, const at::Tensor& keep) override {
    masked = name;
    for (Layer& layer : layers_)
      if (layer.name == name) layer.weight.mul_(keep.to(at::kFloat).view({-1, 1, 1, 1}));
  }
  void copy_from(const Model& other) override {
    const auto& from = static_cast<const ConvModel&>(other);
    for (std::size_t i = 0; i < 3; ++i) layers_[i].weight = from.layers_[i].weight.clone();
  }
  void* query(std::string_view) noexcept override { return nullptr; }

  std::string masked;

 private:
  static constexpr std::string_view kStages[] = {"first", "second"};
  std::array<Layer, 3> layers_;
  bool with_stages_;
  bool training_ = false;
};

}  // namespace

BACKSTOP_TEST_DEFENSE(FinePruning, {}, {.recipe = "layer = \"last-stage\""});

TEST(FinePruning, PrunesTheLeastActiveInputsOfTheHeadWhileTheAccuracyHolds) {
  // Class 1 wins only by the channel with mean 0.3; without it class 0 wins by the one with 0.4.
  FakeModel model{4, 2};
  weight_of(model).select(0, 1).copy_(at::tensor({0.01, 0.01, 1.0, 0.01}));
  weight_of(model).select(0, 0).copy_(at::tensor({0.02, 0.02, 0.02, 0.1}));
  FakeContext context;
  defend("step = 0.25", context, model, even_images(20, 4));
  EXPECT_EQ(kept_columns(model), (std::vector{false, false, true, true}));
  EXPECT_EQ(context.metrics.at("pruned_channels"), 2);
  EXPECT_EQ(context.metrics.at("channels"), 4);
  EXPECT_EQ(context.metrics.at("holdout_accuracy_before"), 1);
  EXPECT_EQ(context.metrics.at("holdout_accuracy_pruned"), 1);
  EXPECT_TRUE(context.artifacts.at("holdout_accuracy")
                  .equal(at::tensor({1.0, 1.0, 1.0, 0.0}, at::kDouble)));
  EXPECT_TRUE(context.artifacts.at("mean_activation")
                  .allclose(at::tensor({0.1, 0.2, 0.3, 0.4}, at::kDouble)));
}

TEST(FinePruning, RanksByActivationNotByPosition) {
  FakeModel model{4, 2};
  weight_of(model).fill_(0.01).select(0, 1).fill_(1);
  const FakeImageSet rising = even_images(20, 4);
  const FakeImageSet falling{rising.images(at::arange(20, at::kLong)).flip(1), rising.labels(), 2};
  FakeContext context;
  defend("step = 0.5", context, model, falling);
  EXPECT_EQ(kept_columns(model), (std::vector{true, true, false, false}));
}

TEST(FinePruning, PrunesNothingIfTheFirstStepCostsTooMuch) {
  FakeModel model{4, 2};
  weight_of(model).select(0, 1).copy_(at::tensor({1.0, 0.01, 0.01, 0.01}));
  weight_of(model).select(0, 0).copy_(at::tensor({0.02, 0.02, 0.02, 0.02}));
  FakeContext context;
  defend("step = 0.25", context, model, even_images(20, 4));
  EXPECT_EQ(kept_columns(model), (std::vector{true, true, true, true}));
  EXPECT_EQ(context.metrics.at("pruned_channels"), 0);
  EXPECT_EQ(context.metrics.at("holdout_accuracy_pruned"), 1);
}

TEST(FinePruning, LeavesOneChannelIfTheAccuracyNeverFalls) {
  FakeModel model{5, 2};
  weight_of(model).fill_(0.01).select(0, 1).fill_(1);
  FakeContext context;
  defend("step = 0.4", context, model, even_images(20, 5));  // 2 of 5, 4 of 5
  EXPECT_EQ(kept_columns(model), (std::vector{false, false, false, false, true}));
  FakeModel wide{8, 2};
  weight_of(wide).fill_(0.01).select(0, 1).fill_(1);
  FakeContext again;
  defend("", again, wide, even_images(20, 8));  // 1 % of 8 is 0.08: one at a time
  EXPECT_EQ(again.metrics.at("pruned_channels"), 7);
}

TEST(FinePruning, KeepsTheLastModelThatIsGoodEnough) {
  // Random images and a random head: the accuracy falls gradually. The labels are the predictions
  // of the full head.
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor images = at::rand({400, 30, 2, 2}, generator);
  for (const double drop : {0.0, 0.1, 0.4}) {
    FakeModel model{30, 4};
    model.reset(backstop::Part::whole, generator);
    const FakeImageSet clean{images, model.forward(images).argmax(1), 4};
    FakeContext context;
    defend("step = 0.1\nholdout = 0.5\naccuracy_drop = " + std::to_string(drop), context, model,
           clean);
    const at::Tensor curve = context.artifacts.at("holdout_accuracy");
    const std::int64_t last = curve.size(0) - 1;
    ASSERT_GE(last, 1);
    EXPECT_EQ(curve[0].item<double>(), 1);
    for (std::int64_t i = 0; i < last; ++i) EXPECT_GE(curve[i].item<double>(), 1 - drop);
    EXPECT_LT(curve[last].item<double>(), 1 - drop);
    EXPECT_EQ(context.metrics.at("pruned_channels"), 3 * double(last - 1));
    EXPECT_EQ(context.metrics.at("holdout_accuracy_pruned"), curve[last - 1].item<double>());
    EXPECT_EQ(weight_of(model).eq(0).all(0).sum().item<std::int64_t>(), 3 * (last - 1));
  }
}

TEST(FinePruning, AcceptsALossOfExactlyTheTolerance) {
  // One of ten held-out images needs the least active channel: an accuracy of 0.9 is a loss of 0.1.
  at::Tensor images = at::full({20, 2, 1, 1}, 0.5);
  images.select(1, 0).fill_(0.1);
  at::Tensor labels = at::ones({20}, at::kLong);
  const at::Tensor held =
      at::randperm(20, at::detail::createCPUGenerator(0)).narrow(0, 0, 10);  // as with seed 0
  images[held[3].item<std::int64_t>()][0].fill_(0.9);
  labels[held[3].item<std::int64_t>()] = 0;
  FakeModel model{2, 2};
  weight_of(model).copy_(at::tensor({1.0, 0.0, 0.0, 1.0}).view({2, 2}));
  const FakeImageSet clean{images, labels, 2};
  FakeContext context{0};
  defend("step = 0.5\nholdout = 0.5\naccuracy_drop = 0.1", context, model, clean);
  EXPECT_DOUBLE_EQ(context.metrics.at("holdout_accuracy_pruned"), 0.9);
  EXPECT_EQ(context.metrics.at("pruned_channels"), 1);
  FakeModel again{2, 2};
  weight_of(again).copy_(at::tensor({1.0, 0.0, 0.0, 1.0}).view({2, 2}));
  FakeContext stricter{0};
  defend("step = 0.5\nholdout = 0.5\naccuracy_drop = 0.09", stricter, again, clean);
  EXPECT_EQ(stricter.metrics.at("pruned_channels"), 0);
}

TEST(FinePruning, FineTunesOnAllCleanImagesAfterwards) {
  FakeModel model{4, 2};
  weight_of(model).fill_(1);
  FakeContext context;
  defend("epochs = 3\nbatch_size = 7", context, model, even_images(20, 4));
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{20});
  const TrainingOptions& options = context.trainer().fits.at(0);
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.batch_size, 7);
  EXPECT_EQ(options.step, nullptr);
  EXPECT_EQ(options.trainable, backstop::Part::whole);
  ASSERT_NE(options.scheduler, nullptr);
  EXPECT_EQ(options.scheduler->rate({}), 0.1);
}

TEST(FinePruning, WorksWithASingleImage) {
  FakeModel model{4, 2};
  weight_of(model).fill_(0.01).select(0, 1).fill_(1);
  FakeContext context;
  defend("", context, model, even_images(1, 4));
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{1});
  EXPECT_EQ(context.metrics.at("pruned_channels"), 3);
}

TEST(FinePruning, DependsOnlyOnTheSeed) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor images = at::rand({60, 30, 2, 2}, generator);
  const FakeImageSet clean{images, at::arange(60, at::kLong).remainder(3), 3};
  const auto activation = [&](std::uint64_t seed) {
    at::Generator weights = at::detail::createCPUGenerator(6);
    FakeModel model{30, 3};
    model.reset(backstop::Part::whole, weights);
    FakeContext context{seed};
    defend("", context, model, clean);
    return context.artifacts.at("mean_activation");
  };
  EXPECT_TRUE(activation(1).equal(activation(1)));
  EXPECT_FALSE(activation(1).equal(activation(2)));  // other images are held out
}

TEST(FinePruning, PrunesTheLastConvolutionsOwnChannels) {
  // The channels of the second stage are 3, 1, 2 times those of the first; class 1 needs the last.
  ConvModel model{3};
  weight_of(model, 1).copy_(at::tensor({3.0, 1.0, 2.0}).view({3, 1, 1, 1}).expand({3, 3, 1, 1}));
  weight_of(model, 2).copy_(at::tensor({0.1, 0.0, 0.0, 0.0, 0.0, 1.0}).view({2, 3}));
  const at::Tensor before = weight_of(model, 0).clone();
  ConvModel copy{3};
  FakeContext context;
  context.cloner = [&](const Model& original) -> Model& {
    copy.copy_from(original);
    return copy;
  };
  defend("layer = \"last-stage\"\nstep = 0.3", context, model, even_images(20, 3));
  EXPECT_EQ(model.masked, "conv2");
  EXPECT_EQ(copy.masked, "conv2");
  const at::Tensor rows = weight_of(model, 1).ne(0).flatten(1).any(1);
  EXPECT_TRUE(rows.equal(at::tensor({1, 0, 1}).to(at::kBool)));
  EXPECT_TRUE(weight_of(model, 0).equal(before));
  EXPECT_EQ(context.metrics.at("pruned_channels"), 1);
  EXPECT_TRUE(
      context.artifacts.at("holdout_accuracy").equal(at::tensor({1.0, 1.0, 0.0}, at::kDouble)));
  // Each pixel of the first stage is 0.1 + 0.2 + 0.3 in all channels, which the second adds up.
  EXPECT_TRUE(
      context.artifacts.at("mean_activation").allclose(at::tensor({5.4, 1.8, 3.6}, at::kDouble)));
}

TEST(FinePruning, ExplainsWhatAModelWithoutStagesOrConvolutionsLacks) {
  ConvModel without_stages{3, false};
  FakeContext context;
  context.cloner = [&](const Model&) -> Model& { return without_stages; };
  try {
    defend("layer = \"last-stage\"", context, without_stages, even_images(20, 3));
    FAIL() << "accepted";
  } catch (const backstop::ParameterError& e) {
    EXPECT_STREQ(e.what(),
                 "`layer = \"last-stage\"` needs the feature maps of the stages, which this model "
                 "does not provide");
  }
  FakeModel without_convolutions{3, 2};
  FakeContext other;
  EXPECT_THROW(defend("layer = \"last-stage\"", other, without_convolutions, even_images(20, 3)),
               backstop::ParameterError);
}
