#include "host/engine/run/perturbation.hpp"

#include <cmath>
#include <optional>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

TEST(Perturbation, IsProjectedOntoTheBall) {
  const at::Tensor long_one = at::tensor({3.0F, 4.0F});
  EXPECT_TRUE(projected(long_one, {Ball::Norm::l2, 2.5}).allclose(at::tensor({1.5F, 2.0F})));
  EXPECT_TRUE(projected(long_one, {Ball::Norm::l2, 5}).equal(long_one));
  EXPECT_TRUE(projected(at::tensor({-3.0F, 0.5F}), {Ball::Norm::maximum, 1})
                  .equal(at::tensor({-1.0F, 0.5F})));
}

TEST(Perturbation, LossIsSmallWhenOnlyTheLabelIsLikely) {
  const at::Tensor labels = at::tensor({std::int64_t{0}});
  const auto loss = [&](float label, float second) {
    const float rest = (1 - label - second) / 2;
    const at::Tensor chances = at::tensor({label, second, rest, rest}).unsqueeze(0);
    return only_label_loss(chances.log(), labels).item<double>();
  };
  EXPECT_NEAR(loss(0.5F, 0.3F), -std::log(0.5) - std::log(0.7), 1e-4);
  EXPECT_LT(loss(0.5F, 0.2F), loss(0.5F, 0.4F));
}

class SteadyRate final : public Scheduler {
 public:
  double rate(const TrainingPosition&) const override { return 0.05; }
};

/// A small network that has learned which of three channels is the brightest.
class Search : public testing::Test {
 protected:
  Search() : context_({"audit", "test"}, 1, {}, {}, nullptr, nullptr) {}

  Classifier model() {
    at::Generator generator = make_generator(3);
    Classifier result({"small-cnn", 8, 3, 3, 64}, {}, {}, generator);
    const SteadyRate rate;
    TrainingOptions options;
    options.epochs = 10;
    options.batch_size = 16;
    options.scheduler = &rate;
    context_.trainer().fit(result, images(), options);
    return result;
  }
  /// With the true labels, or all with one.
  static ImageStore images(std::optional<std::int64_t> label = {}) {
    at::Generator generator = make_generator(5);
    const at::Tensor bright = at::arange(96, at::kLong).remainder(3);
    at::Tensor pixels = at::randint(0, 128, {96, 3, 8, 8}, generator, at::kLong);
    pixels += at::one_hot(bright, 3).mul(100).view({96, 3, 1, 1});
    return {pixels.to(at::kByte), label ? at::full({96}, *label, at::kLong) : bright, 3, c10::kCPU};
  }
  double share_of(Classifier& model, const ImageStore& set) {
    return context_.trainer().accuracy(model, set);
  }

  StageContext context_;
};

TEST_F(Search, UniversalPerturbationStaysInTheBallAndLeadsToTheLabel) {
  Classifier subject = model();
  const auto before = subject.state();
  const ImageStore set = images(1);
  ASSERT_LT(share_of(subject, set), 0.5);
  const at::Tensor change = universal_perturbation(context_, subject, set,
                                                   {{Ball::Norm::l2, 6}, 60, 32}, only_label_loss);
  EXPECT_LE(change.norm().item<double>(), 6 + 1e-4);
  EXPECT_GT(share_of(subject, perturbed(context_, set, change)), 0.9);
  const auto after = subject.state();
  for (std::size_t i = 0; i < before.size(); ++i)
    EXPECT_TRUE(before[i].second.equal(after[i].second)) << before[i].first;
}

TEST_F(Search, AdversarialImagesStayNearAndAreMisclassified) {
  Classifier subject = model();
  const ImageStore set = images();
  const at::Tensor every = at::arange(set.size(), at::kLong);
  ASSERT_GT(share_of(subject, set), 0.9);
  const ImageStore moved = adversarial_images(context_, subject, set, 64.0 / 255, 10);
  const at::Tensor distance =
      (moved.pixels(every).to(at::kInt) - set.pixels(every).to(at::kInt)).abs();
  EXPECT_LE(distance.max().item<int>(), 64);
  EXPECT_LT(share_of(subject, moved), 0.5);
}

}  // namespace
}  // namespace backstop::engine
