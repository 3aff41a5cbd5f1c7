#include <cmath>
#include <functional>
#include <memory>

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

/// Every stage multiplies the image's channels by its own weights; the head sees their means.
class ScalingModel final : public Model {
 public:
  ScalingModel(std::int64_t channels, std::size_t stages) : names_(kNames, kNames + stages) {
    for (const std::string_view name : names_)
      layers_.push_back({.name = name, .weight = at::ones({channels})});
    layers_.push_back(
        {.kind = LayerKind::linear, .name = "head", .weight = at::zeros({2, channels})});
    for (const Layer& layer : layers_) at::Tensor(layer.weight).set_requires_grad(true);
  }

  at::Tensor forward(const at::Tensor& images) override {
    ++passes;
    return classify(features(images));
  }
  at::Tensor observe(const at::Tensor& images, backstop::ActivationSink& sink) override {
    ++passes;
    with_gradients = at::GradMode::is_enabled();
    was_training = training_;
    for (std::size_t i = 0; i < names_.size(); ++i) sink.activation(names_[i], map(images, i));
    return classify(features(images));
  }
  at::Tensor features(const at::Tensor& images) override {
    return map(images, names_.empty() ? 0 : names_.size() - 1).to(at::kFloat).mean({2, 3});
  }
  at::Tensor classify(const at::Tensor& features) override {
    return features.matmul(layers_.back().weight.t());
  }
  std::span<const std::string_view> stages() const override { return names_; }
  std::int64_t layer_count() override { return std::ssize(layers_); }
  void read_layer(std::int64_t index, Layer& layer) override {
    layer = layers_.at(static_cast<std::size_t>(index));
  }
  void set_precision(Precision) override {}
  Precision precision() const noexcept override { return Precision::run; }
  std::int64_t classes() const noexcept override { return 2; }
  std::int64_t feature_size() const noexcept override { return layers_.back().weight.size(1); }
  void set_training(bool training) override { training_ = training; }
  bool training() const noexcept override { return training_; }
  void set_trainable(backstop::Part) override {}
  void set_batch_norm(backstop::BatchNormMode) override {}
  void reset(backstop::Part, at::Generator&) override {}
  void replace_head(std::int64_t, at::Generator&) override {}
  void mask_channels(std::string_view, const at::Tensor&) override {}
  void copy_from(const Model& other) override {
    const auto& from = static_cast<const ScalingModel&>(other);
    for (std::size_t i = 0; i < layers_.size(); ++i)
      layers_[i].weight.detach().copy_(from.layers_[i].weight);
    type = from.type;
  }
  void* query(std::string_view) noexcept override { return nullptr; }

  void set_weights(std::size_t layer, const std::vector<double>& values) {
    const at::Tensor weight = layers_[layer].weight.detach();
    weight.copy_(at::tensor(values).view(weight.sizes()));
  }

  at::ScalarType type = at::kFloat;  ///< of the maps
  int passes = 0;
  bool with_gradients = false;
  bool was_training = false;

 private:
  at::Tensor map(const at::Tensor& images, std::size_t stage) const {
    return images.mul(layers_[stage].weight.view({1, -1, 1, 1})).to(type);
  }

  static constexpr std::string_view kNames[] = {"one", "two", "three", "four"};
  std::vector<std::string_view> names_;
  std::vector<Layer> layers_;
  bool training_ = false;
};

/// A context whose clones are teachers; FakeTrainer does not train them, `teach` does.
struct Lesson {
  Lesson() {
    context.cloner = [this](const Model& model) -> Model& {
      teacher = std::make_unique<ScalingModel>(model.feature_size(), model.stages().size());
      teacher->copy_from(model);
      if (teach) teach(*teacher);
      return *teacher;
    };
  }
  double loss() { return context.trainer().losses.at(0); }

  FakeContext context;
  std::function<void(ScalingModel&)> teach;
  std::unique_ptr<ScalingModel> teacher;
};

void distill(const std::string& recipe, Lesson& lesson, Model& model,
             const backstop::ImageSet& clean) {
  const FakeParams params{recipe};
  make<Defense>(params)->run(lesson.context, model, FakeData{clean});
}

/// One image with two channels and two pixels; each channel lights one of the pixels.
FakeImageSet two_pixels() {
  return {at::tensor({1.0F, 0.0F, 0.0F, 1.0F}).view({1, 2, 1, 2}), at::zeros({1}, at::kLong), 2};
}

const double kRoot3 = std::sqrt(3.0);
const double kLn2 = std::log(2.0);  // the cross-entropy of a head of zeros

}  // namespace

// FakeNetwork has two stages.
BACKSTOP_TEST_DEFENSE(Nad, {.recipe = "betas = [500.0, 1000.0]"});

TEST(Nad, AddsTheDistanceOfAttentionMaps) {
  // The squares (3, 4) and (4, 3) both have length 5: the maps (0.6, 0.8) and (0.8, 0.6) are 0.04
  // apart. A teacher three times as bright has the same attention.
  for (const double brightness : {1.0, 3.0}) {
    ScalingModel model{2, 1};
    model.set_weights(0, {kRoot3, -2});
    Lesson lesson;
    lesson.teach = [&](ScalingModel& teacher) {
      teacher.set_weights(0, {2 * brightness, kRoot3 * brightness});
    };
    distill("betas = [500.0]", lesson, model, two_pixels());
    EXPECT_NEAR(lesson.loss(), kLn2 + 500 * 0.04, 1e-3);
  }
}

TEST(Nad, UsesThePowerOfTheRecipe) {
  ScalingModel model{2, 1};
  model.set_weights(0, {3, -4});
  Lesson lesson;
  lesson.teach = [](ScalingModel& teacher) { teacher.set_weights(0, {-4, 3}); };
  distill("betas = [500.0]\npower = 1.0", lesson, model, two_pixels());
  EXPECT_NEAR(lesson.loss(), kLn2 + 500 * 0.04, 1e-3);
}

TEST(Nad, ReadsBfloat16Maps) {
  ScalingModel model{2, 1};
  model.type = at::kBFloat16;
  model.set_weights(0, {1, 2});
  Lesson lesson;
  lesson.teach = [](ScalingModel& teacher) { teacher.set_weights(0, {2, 1}); };
  distill("betas = [1000.0]", lesson, model, two_pixels());
  // The maps (1, 4) / sqrt(17) and (4, 1) / sqrt(17) are 9 / 17 apart, which bfloat16 cannot hold.
  EXPECT_NEAR(lesson.loss(), kLn2 + 1000 * 9.0 / 17, 1e-2);
}

TEST(Nad, AppliesTheBetasToTheLastStages) {
  const double expected[] = {0, 1, 10, 100};
  for (std::size_t stage = 0; stage < 4; ++stage) {
    ScalingModel model{2, 4};
    for (std::size_t i = 0; i < 4; ++i) model.set_weights(i, {kRoot3, 2});
    Lesson lesson;
    lesson.teach = [&](ScalingModel& teacher) { teacher.set_weights(stage, {2, kRoot3}); };
    distill("betas = [1.0, 10.0, 100.0]", lesson, model, two_pixels());
    EXPECT_NEAR(lesson.loss(), kLn2 + expected[stage] * 0.04, 1e-4) << "stage " << stage;
  }
}

TEST(Nad, GradientMatchesFiniteDifferences) {
  at::Generator generator = at::detail::createCPUGenerator(3);
  const FakeImageSet clean{at::rand({6, 2, 3, 3}, generator), at::arange(6).remainder(2), 2};
  std::vector<std::vector<double>> weights = {{0.7, 1.2}, {1.1, -0.6}, {0.9, 1.5}, {1, -1, 0.5, 2}};
  const auto step = [&] {
    auto model = std::make_unique<ScalingModel>(2, 3);
    for (std::size_t i = 0; i < weights.size(); ++i) model->set_weights(i, weights[i]);
    Lesson lesson;
    lesson.teach = [](ScalingModel& teacher) {
      for (std::size_t i = 0; i < 3; ++i) teacher.set_weights(i, {2, 0.5});
    };
    distill("betas = [5.0, 10.0, 20.0]", lesson, *model, clean);
    return std::pair(lesson.loss(), std::move(model));
  };
  const auto model = step().second;
  for (std::size_t layer = 0; layer < weights.size(); ++layer) {
    const at::Tensor gradient = model->layers()[layer].weight.grad().flatten();
    for (std::size_t i = 0; i < weights[layer].size(); ++i) {
      constexpr double kStep = 5e-3;
      weights[layer][i] += kStep;
      const double above = step().first;
      weights[layer][i] -= 2 * kStep;
      const double below = step().first;
      weights[layer][i] += kStep;
      const double found = gradient.select(0, std::int64_t(i)).item<double>();
      EXPECT_NEAR(found, (above - below) / (2 * kStep), 1e-3) << layer << ", " << i;
      EXPECT_GT(std::abs(found), 1e-2) << "a gradient that shows nothing";
    }
  }
}

TEST(Nad, LeavesTheTeacherUnchanged) {
  ScalingModel model{2, 3};
  Lesson lesson;
  lesson.teach = [](ScalingModel& teacher) { teacher.set_weights(2, {2, kRoot3}); };
  distill("", lesson, model, two_pixels());
  EXPECT_FALSE(lesson.teacher->was_training);
  EXPECT_FALSE(lesson.teacher->with_gradients);
  EXPECT_TRUE(lesson.teacher->layers()[2].weight.detach().allclose(
      at::tensor({2.0, kRoot3}).to(at::kFloat)));
  for (const Layer& layer : lesson.teacher->layers()) EXPECT_FALSE(layer.weight.grad().defined());
  EXPECT_TRUE(model.layers()[2].weight.grad().defined());
}

TEST(Nad, ShowsEachBatchToTheModelOnce) {
  ScalingModel model{2, 3};
  Lesson lesson;
  distill("", lesson, model, two_pixels());
  // One more pass looks at the maps before the training.
  EXPECT_EQ(model.passes, 1 + std::ssize(lesson.context.trainer().batches));
  EXPECT_TRUE(model.was_training);
  EXPECT_TRUE(model.with_gradients);
}

TEST(Nad, TrainsACopyFirstAndThenTheModel) {
  ScalingModel model{2, 3};
  Lesson lesson;
  distill("teacher_epochs = 3\nepochs = 5\nbatch_size = 7", lesson, model, two_pixels());
  ASSERT_EQ(lesson.context.trainer().fits.size(), 2U);
  EXPECT_EQ(lesson.context.trainer().models[0], lesson.teacher.get());
  EXPECT_EQ(lesson.context.trainer().models[1], &model);
  EXPECT_EQ(lesson.context.trainer().fits[0].epochs, 3);
  EXPECT_EQ(lesson.context.trainer().fits[1].epochs, 5);
  for (const TrainingOptions& options : lesson.context.trainer().fits) {
    EXPECT_EQ(options.batch_size, 7);
    ASSERT_NE(options.scheduler, nullptr);
    EXPECT_EQ(options.scheduler->rate({}), 0.1);
    EXPECT_EQ(options.trainable, backstop::Part::whole);
  }
}

TEST(Nad, ExplainsWhatAModelLacksBeforeTraining) {
  const auto refusal = [](std::size_t stages, const char* recipe, const FakeImageSet& clean) {
    ScalingModel model{2, stages};
    Lesson lesson;
    try {
      distill(recipe, lesson, model, clean);
    } catch (const backstop::ParameterError& e) {
      EXPECT_TRUE(lesson.context.trainer().fits.empty());
      EXPECT_FALSE(e.hint().empty());
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal(0, "", two_pixels()),
            "neural attention distillation needs the feature maps of the stages, which this model "
            "does not provide");
  EXPECT_EQ(refusal(2, "", two_pixels()),
            "`betas` must have at most as many entries as the model has stages (2), got 3");
  const FakeImageSet one_pixel{at::ones({1, 2, 1, 1}), at::zeros({1}, at::kLong), 2};
  EXPECT_EQ(refusal(4, "", one_pixel),
            "the feature maps of stage `two` are 1 x 1 pixels, whose attention is always 1");
  EXPECT_EQ(refusal(4, "betas = [0.0]", one_pixel), "");
}
