#include <ATen/ops/cross_entropy_loss.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Defense;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

/// The gradient of a new model's weights in the last step of the defense.
at::Tensor gradient(FakeContext& context, const FakeImageSet& clean) {
  const FakeParams params;
  FakeModel model{3, 2};
  make<Defense>(params)->run(context, model, FakeData{clean});
  return model.layers()[0].weight.grad();
}

FakeImageSet image_set(std::int64_t size) {
  at::Generator generator = at::detail::createCPUGenerator(7);
  return {at::rand({size, 3, 8, 8}, generator), at::arange(size, at::kLong).remainder(2), 2};
}

}  // namespace

BACKSTOP_TEST_DEFENSE(MixupTuning);

TEST(MixupTuning, TrainsOnFourFifthsAndMeasuresOnTheRest) {
  FakeContext context;
  gradient(context, image_set(10));
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{8});
  EXPECT_EQ(context.metrics.count("held_out_accuracy"), 1U);
}

TEST(MixupTuning, DrawsFromTheContextsGeneratorAlone) {
  FakeContext first{1}, again{1}, other{2};
  const at::Tensor expected = gradient(first, image_set(10));
  EXPECT_TRUE(gradient(again, image_set(10)).equal(expected));
  EXPECT_FALSE(gradient(other, image_set(10)).equal(expected));
}

TEST(MixupTuning, MixingEqualImagesIsCrossEntropy) {
  const FakeImageSet equal{at::full({10, 3, 8, 8}, 0.5), at::zeros({10}, at::kLong), 2};
  FakeContext context;
  FakeModel model{3, 2};
  at::cross_entropy_loss(model.forward(at::full({8, 3, 8, 8}, 0.5)), at::zeros({8}, at::kLong))
      .backward();
  EXPECT_TRUE(gradient(context, equal).allclose(model.layers()[0].weight.grad()));
}

TEST(MixupTuning, TrainsOnASingleImage) {
  FakeContext context;
  gradient(context, image_set(1));
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{1});
  EXPECT_TRUE(context.metrics.empty());
}
