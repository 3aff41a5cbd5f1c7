#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;

TEST(Confidence, ScoresHowSureTheModelIs) {
  const auto clean = backstop::testing::random_images(100, 1, 8, 2);
  FakeModel model{1, 2};  // class 1 for bright images
  model.layers()[0].weight.detach().select(0, 1).fill_(4);
  const FakeParams params;
  FakeContext context{clean};
  const auto defense = backstop::testing::make<backstop::Defense>(params);
  auto& detector = backstop::testing::input_detector(*defense);
  const double threshold = detector.prepare(context, model, FakeData{clean});
  const auto above = [&](const at::Tensor& images) {
    return detector.scores(context, model, images).gt(threshold).sum().item<int>();
  };
  EXPECT_EQ(above(clean.images(at::arange(100, at::kLong))), 1);
  EXPECT_EQ(above(at::ones({3, 1, 8, 8})), 3);
  EXPECT_THROW(defense->run(context, model, FakeData{clean}), backstop::Error);
}
