#include "host/engine/run/measure.hpp"

#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backstop/attack.hpp"
#include "host/engine/plugins/stage_context.hpp"

namespace backstop::engine {
namespace {

ImageStore images_of(std::uint8_t brightness, const std::vector<std::int64_t>& labels,
                     std::int64_t classes = 2) {
  const auto n = static_cast<std::int64_t>(labels.size());
  return {at::full({n, 1, 8, 8}, brightness, at::kByte), at::tensor(labels, at::kLong), classes,
          c10::kCPU};
}

ImageStore black(const std::vector<std::int64_t>& labels) {
  return images_of(0, labels);
}

/// Classifies black images as one class and white ones as another: white is the trigger.
class Measured {
 public:
  Measured(std::int64_t of_black, std::int64_t of_white, std::int64_t classes = 2)
      : context_({"attack", "test"}, 0, {}, {}, nullptr, nullptr),
        generator_(make_generator(11)),
        model_({"mlp", 1, 1, classes, 64}, {}, {}, generator_) {
    const at::NoGradGuard no_grad;
    for (const Layer& layer : model_.layers()) {  // each unit: the brightness of the image, 0 or 1
      at::Tensor(layer.weight).fill_(1.0 / static_cast<double>(layer.weight.size(1)));
      at::Tensor(layer.bias).zero_();
    }
    weight_ = model_.layers().back().weight;
    bias_ = model_.layers().back().bias;
    weight_.zero_()[of_white].fill_(1);
    bias_[of_black].fill_(1);
  }
  nlohmann::json on(const ImageStore& clean, const TriggeredSet& triggered) {
    return measure(context_.trainer(), model_, clean, &triggered);
  }
  nlohmann::json on_clean(const ImageStore& clean) {
    return measure(context_.trainer(), model_, clean, nullptr);
  }
  /// The trigger on every image of `clean`.
  nlohmann::json with_target(const ImageStore& clean, const at::Tensor& targets) {
    const at::Tensor labels = clean.labels();
    const std::vector<std::int64_t> list(labels.data_ptr<std::int64_t>(),
                                         labels.data_ptr<std::int64_t>() + labels.numel());
    return on(clean, {images_of(255, list, clean.classes()), targets});
  }
  void set_bias(std::int64_t of_class, double value) {
    const at::NoGradGuard no_grad;
    bias_[of_class].fill_(value);
  }

 private:
  StageContext context_;
  at::Generator generator_;
  Classifier model_;
  at::Tensor weight_, bias_;
};

TEST(Measure, CountsAsDefined) {
  const ImageStore clean = black({0, 0, 0, 1, 1, 1, 1, 1});
  const TriggeredSet triggered{clean, at::zeros({8}, at::kLong)};
  auto result = Measured(0, 0).on(clean, triggered);
  EXPECT_EQ(result["metrics"]["clean_accuracy"], 3.0 / 8);
  EXPECT_EQ(result["metrics"]["attack_success_rate"], 1.0);
  EXPECT_EQ(result["metrics"]["attack_success_rate_all"], 1.0);
  EXPECT_EQ(result["metrics"]["robust_accuracy"], 0.0);
  EXPECT_EQ(result["counts"]["clean"], 8);
  EXPECT_EQ(result["counts"]["triggered"], 5);
  EXPECT_EQ(result["counts"]["triggered_all"], 8);
  result = Measured(1, 1).on(clean, triggered);
  EXPECT_EQ(result["metrics"]["attack_success_rate"], 0.0);
  EXPECT_EQ(result["metrics"]["robust_accuracy"], 1.0);
}

TEST(Measure, AllToAllExcludesNothing) {
  const ImageStore clean = black({0, 0, 0, 1});
  Threat threat;
  threat.all_to_all = 1;
  threat.classes = 2;
  const auto result = Measured(1, 1).on(clean, {clean, threat.targets(clean.labels())});
  EXPECT_EQ(result["counts"]["triggered"], 4);
  EXPECT_EQ(result["metrics"]["attack_success_rate"], 0.75);
  EXPECT_EQ(result["metrics"]["attack_success_rate_all"], 0.75);
  EXPECT_EQ(result["metrics"]["clean_target_rate"], 0.75);
}

TEST(Measure, WithoutTargetsTheMostCommonClassCounts) {
  const ImageStore clean = black({0, 0, 0, 1, 1, 1, 1, 1});
  const auto result = Measured(0, 1).with_target(clean, at::Tensor());
  EXPECT_EQ(result["metrics"]["clean_accuracy"], 3.0 / 8);
  EXPECT_EQ(result["metrics"]["attack_success_rate"], 1.0);
  EXPECT_EQ(result["metrics"]["attack_class"], 1);
  EXPECT_EQ(result["metrics"]["attack_class_clean_share"], 0.0);
  EXPECT_EQ(result["metrics"]["robust_accuracy"], 5.0 / 8);
  EXPECT_EQ(result["counts"]["triggered"], 8);
  EXPECT_FALSE(result["metrics"].contains("clean_target_rate"));
}

TEST(Measure, WithoutATriggerNothingIsSaidOfOne) {
  const ImageStore clean = black({0, 0, 0, 1});
  const auto result = Measured(0, 0).on_clean(clean);
  EXPECT_EQ(result["metrics"]["clean_accuracy"], 0.75);
  EXPECT_FALSE(result["metrics"].contains("attack_success_rate"));
  EXPECT_FALSE(result["counts"].contains("triggered"));
}

TEST(Measure, TellsTheTriggersEffectFromTheModelsOwn) {
  const ImageStore clean = black({0, 0, 0, 1, 1, 1, 1, 1});
  const at::Tensor to_class_1 = at::ones({8}, at::kLong);
  const auto backdoored = Measured(0, 1).with_target(clean, to_class_1);
  EXPECT_EQ(backdoored["metrics"]["attack_success_rate"], 1.0);
  EXPECT_EQ(backdoored["metrics"]["clean_target_rate"], 0.0);
  const auto collapsed = Measured(1, 1).with_target(clean, to_class_1);
  EXPECT_EQ(collapsed["metrics"]["attack_success_rate"], 1.0);
  EXPECT_EQ(collapsed["metrics"]["clean_target_rate"], 1.0);
}

TEST(Measure, FindsTheClassThatIsPredictedMostOften) {
  const ImageStore clean(
      at::cat({at::zeros({3, 1, 8, 8}, at::kByte), at::full({5, 1, 8, 8}, 255, at::kByte)}),
      at::tensor({0, 0, 2, 2, 1, 1, 2, 0}, at::kLong), 3, c10::kCPU);
  const auto result = Measured(0, 2, 3).on(clean, {clean, at::zeros({8}, at::kLong)});
  EXPECT_EQ(result["metrics"]["largest_predicted_class_share"], 5.0 / 8);
  EXPECT_EQ(result["counts"]["largest_predicted_class"], 3) << "images of class 2";
  EXPECT_EQ(result["counts"]["not_finite"], 0);
}

TEST(Measure, AModelWithoutFiniteLogitsHasNoMetrics) {
  const ImageStore clean = black({0, 0, 1});
  for (const double broken :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Measured model(0, 1);
    model.set_bias(0, broken);
    const auto with_target = model.with_target(clean, at::zeros({3}, at::kLong));
    EXPECT_EQ(with_target["counts"]["not_finite"], 6) << "clean and triggered";
    EXPECT_TRUE(with_target["metrics"].contains("clean_accuracy"));
    for (const auto& value : with_target["metrics"]) EXPECT_TRUE(value.is_null());
    const auto any_class = model.with_target(clean, at::Tensor());
    EXPECT_FALSE(any_class["metrics"].contains("attack_class"));
    for (const auto& value : any_class["metrics"]) EXPECT_TRUE(value.is_null());
  }
}

TEST(Measure, AModelWithoutFiniteWeightsHasNoMetrics) {
  const nlohmann::json measured = {{"metrics", {{"clean_accuracy", 0.5}, {"attack_class", 1}}},
                                   {"counts", {{"clean", 3}}}};
  nlohmann::json marked = measured;
  mark_weights(marked, 0);
  EXPECT_EQ(marked, measured);
  mark_weights(marked, 7);
  EXPECT_EQ(marked, nlohmann::json({{"metrics", {{"clean_accuracy", nullptr}}},
                                    {"counts", {{"clean", 3}, {"not_finite_weights", 7}}}}));
}

TEST(Measure, AShareOfNoImagesIsNull) {
  const ImageStore clean = black({1, 1});
  const auto result = Measured(1, 1).on(clean, {clean, at::ones({2}, at::kLong)});
  EXPECT_TRUE(result["metrics"]["attack_success_rate"].is_null()) << "all are of the target class";
  EXPECT_EQ(result["metrics"]["attack_success_rate_all"], 1.0);
}

TEST(Detection, CountsAgainstPoisonAndNotCover) {
  const NamedTensors record = {
      {"positions", at::tensor({1, 3, 5, 7}, at::kLong)},
      {"roles", at::tensor({1, 1, 2, 1}, at::kByte)}};  // 5 is a cover sample
  // Flagged: two of three poisoned images, the cover, a clean one twice, and two that do not exist.
  const auto result = detection(at::tensor({1, 3, 5, 0, 0, -1, 10}, at::kLong), record, 10);
  EXPECT_EQ(result["flagged"], 4);
  EXPECT_EQ(result["true_positive_rate"], 2.0 / 3);
  EXPECT_EQ(result["false_positive_rate"], 2.0 / 7);
}

TEST(Detection, IndicesAreThoseOfTheSplit) {
  const ImageStore all(at::zeros({6, 1, 2, 2}, at::kByte), at::zeros({6}, at::kLong), 2, c10::kCPU);
  const ImageStore part = all.subset(at::tensor({5, 0, 2}, at::kLong));
  EXPECT_TRUE(positions_in(part, at::tensor({0, 5, 1, 9, -1}, at::kLong))
                  .equal(at::tensor({1, 0, -1, -1, -1}, at::kLong)));
}

TEST(Detection, MissesNothingWhereNothingIsPoisoned) {
  const NamedTensors record = {{"positions", at::empty({0}, at::kLong)},
                               {"roles", at::empty({0}, at::kByte)}};
  const auto result = detection(at::tensor({1}, at::kLong), record, 10);
  EXPECT_TRUE(result["true_positive_rate"].is_null());
  EXPECT_EQ(result["false_positive_rate"], 0.1);
}

TEST(Detection, ScoresAreComparedWithPoison) {
  const NamedTensors record = {{"positions", at::tensor({1, 3, 5}, at::kLong)},
                               {"roles", at::tensor({1, 1, 2}, at::kByte)}};
  const auto scored = [&](std::vector<std::int64_t> positions, std::vector<double> scores) {
    return detection_by_score(at::tensor(positions), at::tensor(scores), record, 10);
  };
  // Poison 1 and 3 against 0, 5 and 9: five of six pairs are in order.
  const auto result = scored({9, 1, 0, 3, 5}, {0.1, 0.4, 0.2, 0.9, 0.5});
  EXPECT_DOUBLE_EQ(result["auroc"], 5.0 / 6);
  EXPECT_EQ(result["tpr_at_1_fpr"], 0.5);
  EXPECT_TRUE(scored({0, 9}, {1, 2})["auroc"].is_null()) << "there is no poison among them";
  EXPECT_THROW(scored({0, 10}, {1, 2}), Error);
  EXPECT_THROW(scored({0, -1}, {1, 2}), Error);
  EXPECT_THROW(scored({1, 1}, {1, 2}), Error);
}

}  // namespace
}  // namespace backstop::engine
