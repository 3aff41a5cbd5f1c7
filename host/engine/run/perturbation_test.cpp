#include "host/engine/run/perturbation.hpp"

#include <cmath>

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

/// A small network, as its weights were drawn.
class Search : public testing::Test {
 protected:
  Search() : context_({"audit", "test"}, 1, {}, {}, nullptr, nullptr) {}

  static Classifier model() {
    at::Generator generator = make_generator(3);
    return {{"small-cnn", 8, 3, 4, 64}, {}, {}, generator};
  }
  static ImageStore images(std::int64_t label) {
    at::Generator generator = make_generator(5);
    return {at::randint(0, 256, {64, 3, 8, 8}, generator, at::kByte),
            at::full({64}, label, at::kLong), 4, c10::kCPU};
  }
  double share_of(Classifier& model, const ImageStore& set) {
    return context_.trainer().accuracy(model, set);
  }

  StageContext context_;
};

TEST_F(Search, UniversalPerturbationStaysInTheBallAndLeadsToTheLabel) {
  Classifier subject = model();
  const auto before = subject.state();
  // The class that is predicted least often.
  std::int64_t label = 0;
  for (std::int64_t other = 1; other < 4; ++other)
    if (share_of(subject, images(other)) < share_of(subject, images(label))) label = other;
  const ImageStore set = images(label);
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
  const ImageStore all = images(0);
  const at::Tensor predicted = context_.trainer().logits(subject, all).argmax(1);
  const at::Tensor every = at::arange(64, at::kLong);
  const ImageStore set(all.pixels(every), predicted, 4, c10::kCPU);
  ASSERT_EQ(share_of(subject, set), 1.0);
  const ImageStore moved = adversarial_images(context_, subject, set, 32.0 / 255, 10);
  const at::Tensor distance =
      (moved.pixels(every).to(at::kInt) - set.pixels(every).to(at::kInt)).abs();
  EXPECT_LE(distance.max().item<int>(), 32);
  EXPECT_LT(share_of(subject, moved), 0.5);
}

}  // namespace
}  // namespace backstop::engine
