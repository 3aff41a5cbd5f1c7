// Tests of what every defense must hold, as backstop/defense.hpp says it. In the test of a plugin,
//
//   #include "backstop/testing/defense_promises.hpp"
//   BACKSTOP_TEST_DEFENSE(MyDefense, {}, {.recipe = "epochs = 3"});
//
// runs all of them with the manifest's defaults, {}, and with three epochs.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <list>
#include <map>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

namespace backstop::testing {

/// A small network of what defenses work on: two 3 x 3 convolutions, each with a batch
/// normalization and a ReLU behind it, whose output is a stage; their mean; a linear head.
class FakeNetwork final : public Model, public HoldsMasks {
 public:
  FakeNetwork(std::int64_t channels, std::int64_t classes, at::Generator& generator) {
    add_convolution("conv1", channels);
    add_batch_norm("bn1");
    add_convolution("conv2", kWidth);
    add_batch_norm("bn2");
    layers_.push_back({.kind = LayerKind::linear, .name = "head"});
    replace_head(classes, generator);
    reset(Part::whole, generator);
  }

  at::Tensor forward(const at::Tensor& images) override { return classify(features(images)); }
  at::Tensor observe(const at::Tensor& images, ActivationSink& sink) override {
    return classify(body(images, &sink));
  }
  at::Tensor features(const at::Tensor& images) override { return body(images, nullptr); }
  at::Tensor classify(const at::Tensor& features) override {
    return at::addmm(layers_[4].bias, features, layers_[4].weight.t());
  }
  std::span<const std::string_view> stages() const override { return kStages; }
  std::int64_t layer_count() override { return std::ssize(layers_); }
  void read_layer(std::int64_t index, Layer& layer) override {
    layer = layers_.at(static_cast<std::size_t>(index));
  }
  void set_precision(Precision) override {}
  Precision precision() const noexcept override { return Precision::run; }
  std::int64_t classes() const noexcept override { return layers_[4].weight.size(0); }
  std::int64_t feature_size() const noexcept override { return kWidth; }
  void set_training(bool training) override { training_ = training; }
  bool training() const noexcept override { return training_; }
  void set_trainable(Part part) override {
    trainable_ = part;
    update_gradients();
  }
  void set_batch_norm(BatchNormMode mode) override {
    batch_norm_ = mode;
    update_gradients();
  }
  void reset(Part part, at::Generator& generator) override {
    const at::NoGradGuard no_gradients;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (!(i == 4 ? has_head(part) : has_body(part))) continue;
      const Layer& layer = layers_[i];
      if (layer.kind == LayerKind::batch_norm) {
        layer.weight.fill_(1);
        layer.running_mean.zero_();
        layer.running_var.fill_(1);
      } else {
        const auto inputs = static_cast<double>(layer.weight.select(0, 0).numel());
        layer.weight.normal_(0, std::sqrt(2 / inputs), generator);
      }
      if (layer.bias.defined()) layer.bias.zero_();
    }
  }
  void replace_head(std::int64_t classes, at::Generator& generator) override {
    layers_[4].weight = at::zeros({classes, kWidth});
    layers_[4].bias = at::zeros({classes});
    masks_.erase("head");
    reset(Part::head, generator);
    update_gradients();
  }
  void mask_channels(std::string_view name, const at::Tensor& keep) override {
    const Layer& layer = named(name);
    const at::Tensor mask =
        keep.to(at::kFloat)
            .view(layer.kind == LayerKind::convolution ? std::vector<std::int64_t>{-1, 1, 1, 1}
                                                       : std::vector<std::int64_t>{1, -1});
    const auto [found, first] = masks_.emplace(name, mask);
    if (!first) found->second = found->second.mul(mask);
    hold_masks();
  }
  void hold_masks() override {
    const at::NoGradGuard no_gradients;
    for (const auto& [name, mask] : masks_) named(name).weight.mul_(mask);
  }
  void copy_from(const Model& other) override {
    const at::NoGradGuard no_gradients;
    const auto& from = dynamic_cast<const FakeNetwork&>(other);
    const auto theirs = from.tensors(), own = tensors();
    for (std::size_t i = 0; i < own.size(); ++i) own[i].copy_(theirs[i]);
    masks_ = from.masks_;
  }
  void* query(std::string_view) noexcept override { return nullptr; }

  /// Weights and statistics, from the input to the output.
  [[nodiscard]] std::vector<at::Tensor> tensors() const {
    std::vector<at::Tensor> result;
    for (const Layer& layer : layers_)
      for (const at::Tensor& t : {layer.weight, layer.bias, layer.running_mean, layer.running_var})
        if (t.defined()) result.push_back(t.detach());
    return result;
  }

 private:
  static bool has_head(Part part) { return part == Part::head || part == Part::whole; }
  static bool has_body(Part part) { return part == Part::body || part == Part::whole; }

  void add_convolution(std::string_view name, std::int64_t inputs) {
    layers_.push_back({.name = name, .weight = at::zeros({kWidth, inputs, 3, 3}), .padding = 1});
  }
  void add_batch_norm(std::string_view name) {
    layers_.push_back({.kind = LayerKind::batch_norm,
                       .name = name,
                       .weight = at::ones({kWidth}),
                       .bias = at::zeros({kWidth}),
                       .running_mean = at::zeros({kWidth}),
                       .running_var = at::ones({kWidth}),
                       .epsilon = kEpsilon});
  }
  const Layer& named(std::string_view name) const {
    for (const Layer& layer : layers_)
      if (layer.name == name) return layer;
    throw Error("there is no layer `" + std::string(name) + "`");
  }
  void update_gradients() {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      const bool frozen =
          layer.kind == LayerKind::batch_norm && batch_norm_ == BatchNormMode::frozen;
      if (trainable_ == Part::chosen && !frozen) continue;  // as the plugin left it
      const bool learns = (i == 4 ? has_head(trainable_) : has_body(trainable_)) && !frozen;
      layer.weight.set_requires_grad(learns);
      if (layer.bias.defined()) layer.bias.set_requires_grad(learns);
    }
  }
  at::Tensor body(const at::Tensor& images, ActivationSink* sink) const {
    const bool batch_statistics = training_ && batch_norm_ == BatchNormMode::normal;
    at::Tensor map = images;
    for (std::size_t stage = 0; stage < 2; ++stage) {
      const Layer &convolution = layers_[2 * stage], &norm = layers_[2 * stage + 1];
      map = at::conv2d(map, convolution.weight, {}, /*stride=*/1, /*padding=*/1);
      map = at::batch_norm(map, norm.weight, norm.bias, norm.running_mean, norm.running_var,
                           batch_statistics, /*momentum=*/0.1, kEpsilon,
                           /*cudnn_enabled=*/false)
                .relu();
      if (sink) map = sink->activation(kStages[stage], map);
    }
    return map.mean({2, 3});
  }

  static constexpr std::int64_t kWidth = 4;
  static constexpr double kEpsilon = 1e-5;
  static constexpr std::string_view kStages[] = {"stage1", "stage2"};
  std::vector<Layer> layers_;
  std::map<std::string, at::Tensor, std::less<>> masks_;
  Part trainable_ = Part::whole;
  BatchNormMode batch_norm_ = BatchNormMode::normal;
  bool training_ = false;
};

/// What the tests run with.
struct DefenseCase {
  std::string recipe = {};  ///< the plugin's table as TOML
};

inline std::ostream& operator<<(std::ostream& stream, const DefenseCase& c) {
  return stream << '"' << c.recipe << '"';
}

/// One case with the manifest's defaults where none is given.
inline std::vector<DefenseCase> defense_cases(std::initializer_list<DefenseCase> cases) {
  return cases.size() == 0 ? std::vector<DefenseCase>(1) : std::vector<DefenseCase>(cases);
}

class DefensePromises : public ::testing::TestWithParam<DefenseCase> {
 protected:
  /// A defense, a model and what the defender has; image i of either set is another number of its
  /// split.
  struct Run {
    explicit Run(std::uint64_t seed = 1)
        : params(GetParam().recipe),
          clean(part(20, 100)),
          training(part(40, 1000)),
          context(training, seed) {
      context.trainer().learns = true;
      context.cloner = [this](const Model& original) -> Model& {
        clones.push_back(network());
        clones.back().copy_from(original);
        return clones.back();
      };
    }
    void defend() { make<Defense>(params)->run(context, model, FakeData{clean, &training}); }

    static FakeNetwork network() {
      at::Generator generator = at::detail::createCPUGenerator(3);
      return {3, 4, generator};
    }
    static FakeImageSet part(std::int64_t size, std::int64_t first) {
      const FakeImageSet images = random_images(size);
      return {all_images(images), images.labels(), images.classes(),
              images.indices().neg().add(first)};
    }

    FakeParams params;
    FakeImageSet clean, training;
    FakeContext context;
    FakeNetwork model = network();
    std::list<FakeNetwork> clones;
  };
};

TEST_P(DefensePromises, LeavesAModelWithFiniteWeights) {
  Run run;
  run.defend();
  for (const at::Tensor& tensor : run.model.tensors())
    EXPECT_TRUE(tensor.isfinite().all().item<bool>());
}

TEST_P(DefensePromises, GivesTheSameModelForTheSameSeed) {
  Run first, second;
  first.defend();
  at::rand({3});  // moves LibTorch's global generator, which a defense does not draw from
  second.defend();
  const auto weights = first.model.tensors(), others = second.model.tensors();
  ASSERT_EQ(weights.size(), others.size());
  for (std::size_t i = 0; i < weights.size(); ++i) EXPECT_TRUE(weights[i].equal(others[i]));
  EXPECT_EQ(first.context.metrics, second.context.metrics);
}

TEST_P(DefensePromises, LeavesTheDataAlone) {
  Run run;
  const Run untouched;
  run.defend();
  for (const auto& [set, before] :
       {std::pair(&run.clean, &untouched.clean), {&run.training, &untouched.training}}) {
    EXPECT_TRUE(all_images(*set).equal(all_images(*before)));
    EXPECT_TRUE(set->labels().equal(before->labels()));
    EXPECT_TRUE(set->indices().equal(before->indices()));
  }
}

TEST_P(DefensePromises, NamesTrainingImagesByTheirIndices) {
  Run run;
  run.defend();
  const FakeContext& context = run.context;
  for (const auto& [named, call] :
       {std::pair(context.flagged, "flag_poison"), {context.scored, "score_poison"}}) {
    if (!named.defined()) continue;
    EXPECT_EQ(named.dim(), 1);
    at::Tensor count = at::zeros({run.training.size()}, at::kLong);
    for (std::int64_t i = 0; i < named.size(0); ++i) {
      const at::Tensor there = run.training.indices().eq(named.select(0, i));
      EXPECT_TRUE(there.any().item<bool>()) << call << "() takes entries of ImageSet::indices()";
      count.add_(there);
    }
    EXPECT_LE(count.max().item<std::int64_t>(), 1) << call << "() got an image twice";
  }
}

TEST_P(DefensePromises, StopsWhenTheRunIsInterrupted) {
  Run run;
  run.context.cancel = true;
  EXPECT_THROW(run.defend(), Cancelled);
}

}  // namespace backstop::testing

/// Runs all tests of DefensePromises with each DefenseCase, written in braces; without any, with
/// the manifest's defaults.
// NOLINTNEXTLINE(cppcoreguidelines-macro-usage): GoogleTest's own are macros
#define BACKSTOP_TEST_DEFENSE(Name, ...)          \
  using backstop::testing::DefensePromises;       \
  INSTANTIATE_TEST_SUITE_P(Name, DefensePromises, \
                           ::testing::ValuesIn(backstop::testing::defense_cases({__VA_ARGS__})))
