#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Dataset;
using backstop::Split;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;

TEST(@Class@, HasImagesOfEveryClass) {
  const FakeParams params{"classes = 3\nimages = 12"};
  FakeContext context;
  const auto dataset = make<Dataset>(params);
  const auto train = dataset->load(context, Split::train);
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({12, 1, 16, 16}));
  EXPECT_EQ(train.images.scalar_type(), at::kByte);
  EXPECT_TRUE(train.labels.equal(at::arange(12, at::kLong).remainder(3)));
  EXPECT_EQ(dataset->load(context, Split::test).images.size(0), 6);
  EXPECT_EQ(dataset->classes(), 3);
  EXPECT_EQ(dataset->class_name(2), "120 degrees");
}

TEST(@Class@, DrawsFromItsOwnSeedAlone) {
  const auto images = [](const char* recipe, std::uint64_t run_seed, Split split) {
    const FakeParams params{recipe};
    FakeContext context{run_seed};
    return make<Dataset>(params)->load(context, split).images;
  };
  const at::Tensor train = images("images = 12\nseed = 1", 0, Split::train);
  EXPECT_TRUE(train.equal(images("images = 12\nseed = 1", 7, Split::train)));
  EXPECT_FALSE(train.equal(images("images = 12\nseed = 2", 0, Split::train)));
  EXPECT_FALSE(train.slice(0, 0, 6).equal(images("images = 12\nseed = 1", 0, Split::test)));
}

TEST(@Class@, StatisticsFitTheImages) {
  const FakeParams params;
  FakeContext context;
  const auto dataset = make<Dataset>(params);
  const at::Tensor pixels = dataset->load(context, Split::train).images.to(at::kDouble).div(255);
  EXPECT_NEAR(dataset->statistics().mean[0], pixels.mean().item<double>(), 0.02);
  EXPECT_NEAR(dataset->statistics().deviation[0], pixels.std().item<double>(), 0.02);
}
