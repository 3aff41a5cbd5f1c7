#include <cmath>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Dataset;
using backstop::Split;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;

namespace {

Samples load(const std::string& recipe, Split split = Split::train, std::uint64_t run_seed = 0) {
  const FakeParams params{recipe};
  FakeContext context(run_seed);
  return backstop::testing::load(*make<Dataset>(params), context, split);
}

/// The test accuracy of two convolutions and a linear layer, trained for `epochs`.
double accuracy_of_small_cnn(const std::string& recipe, int epochs) {
  const FakeParams params{recipe};
  FakeContext context;
  const auto dataset = make<Dataset>(params);
  const Samples train = backstop::testing::load(*dataset, context, Split::train);
  const Samples test = backstop::testing::load(*dataset, context, Split::test);
  const auto mean = dataset->means()[0], deviation = dataset->deviations()[0];
  const auto to_input = [&](const at::Tensor& images) {
    return (images.to(at::kFloat) / 255 - mean) / deviation;
  };

  at::Generator generator = at::detail::createCPUGenerator(0);
  const std::int64_t channels = train.images.size(1), side = train.images.size(2) / 4;
  std::vector<at::Tensor> weights = {at::empty({16, channels, 3, 3}), at::empty({32, 16, 3, 3}),
                                     at::empty({dataset->classes(), 32 * side * side})};
  std::vector<at::Tensor> velocities;
  for (at::Tensor& weight : weights) {
    const double fan_in = static_cast<double>(weight[0].numel());
    weight.normal_(0, std::sqrt(2 / fan_in), generator).set_requires_grad(true);
    velocities.push_back(at::zeros_like(weight));
  }
  const auto forward = [&](const at::Tensor& images) {
    const at::Tensor first = at::conv2d(images, weights[0], {}, 2, 1).relu();
    return at::conv2d(first, weights[1], {}, 2, 1).relu().flatten(1).matmul(weights[2].t());
  };
  constexpr std::int64_t kBatch = 32;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    const at::Tensor order = at::randperm(train.labels.size(0), generator);
    for (const at::Tensor& chosen : order.split(kBatch)) {
      at::cross_entropy_loss(forward(to_input(train.images.index_select(0, chosen))),
                             train.labels.index_select(0, chosen))
          .backward();
      const at::NoGradGuard guard;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        velocities[i].mul_(0.9).add_(weights[i].grad());
        weights[i].sub_(velocities[i], 0.02);
        weights[i].mutable_grad().reset();
      }
    }
  }
  const at::NoGradGuard guard;
  const at::Tensor guesses = forward(to_input(test.images)).argmax(1);
  return guesses.eq(test.labels).to(at::kDouble).mean().item<double>();
}

}  // namespace

TEST(Synthetic, HasTheShapeThatTheRecipeAsksFor) {
  const Samples train = load("classes = 3\ntrain_images = 7\nimage_size = 11\nchannels = 1");
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({7, 1, 11, 11}));
  EXPECT_EQ(train.images.scalar_type(), at::kByte);
  EXPECT_TRUE(train.images.is_contiguous());
  EXPECT_TRUE(train.labels.equal(at::tensor({0, 1, 2, 0, 1, 2, 0}, at::kLong)));
  EXPECT_EQ(load("test_images = 5", Split::test).images.sizes(), at::IntArrayRef({5, 3, 16, 16}));
}

TEST(Synthetic, SameSeedGivesTheSameBytesForAnySeedOfTheRun) {
  const at::Tensor images = load("seed = 3", Split::train, 0).images;
  EXPECT_TRUE(load("seed = 3", Split::train, 1).images.equal(images));
  EXPECT_FALSE(load("seed = 4", Split::train, 0).images.equal(images));
}

TEST(Synthetic, BytesAreTheSameOnEveryMachine) {
  const at::Tensor bytes = load("").images.flatten().to(at::kLong);
  const at::Tensor weights = at::arange(bytes.size(0), at::kLong).remainder(251);
  EXPECT_EQ((bytes * weights).sum().item<std::int64_t>(), 6387549584);
}

TEST(Synthetic, SmallerSetIsTheBeginningOfALargerOne) {
  EXPECT_TRUE(load("train_images = 20").images.equal(load("").images.narrow(0, 0, 20)));
}

TEST(Synthetic, HasNoDuplicateImages) {
  const at::Tensor train = load("noise = 0.05").images,
                   test = load("noise = 0.05", Split::test).images;
  const at::Tensor all = at::cat({train, test}).flatten(1);
  EXPECT_EQ(std::get<0>(at::unique_dim(all, 0)).size(0), all.size(0));
}

TEST(Synthetic, NoiseChangesPixelsByAtMostItsParameter) {
  const at::Tensor clean = load("noise = 0.0").images.to(at::kInt);
  const at::Tensor moved = (load("noise = 0.1").images.to(at::kInt) - clean).abs();
  EXPECT_LE(moved.max().item<int>(), 26);  // 0.1 of 255, and rounding
  EXPECT_GE(moved.max().item<int>(), 25);
}

TEST(Synthetic, SmallCnnLearnsIt) {
  EXPECT_GT(accuracy_of_small_cnn("", 5), 0.9);
  EXPECT_GT(accuracy_of_small_cnn("channels = 1", 5), 0.9);
}

TEST(Synthetic, StatisticsAreThoseOfTheTrainingImages) {
  for (const char* recipe : {"channels = 1", "channels = 3"}) {
    const FakeParams params{recipe};
    const auto dataset = make<Dataset>(params);
    const at::Tensor images = load(recipe).images.to(at::kDouble) / 255;
    for (std::int64_t channel = 0; channel < images.size(1); ++channel) {
      const at::Tensor pixels = images.select(1, channel);
      EXPECT_NEAR(dataset->means()[static_cast<std::size_t>(channel)], pixels.mean().item<double>(),
                  1e-12);
      EXPECT_NEAR(dataset->deviations()[static_cast<std::size_t>(channel)],
                  pixels.std(false).item<double>(), 1e-12);
    }
  }
}

TEST(Synthetic, NamesItsClasses) {
  const FakeParams params{"classes = 3"};
  const auto dataset = make<Dataset>(params);
  EXPECT_EQ(dataset->classes(), 3);
  EXPECT_EQ(dataset->class_name(2), "pattern 2");
}

TEST(Synthetic, RefusesTwoChannels) {
  const FakeParams params{"channels = 2"};
  const backstop_plugin_descriptor* plugin = backstop_plugin_v1();
  void* object = nullptr;
  backstop_error error{};
  error.struct_size = sizeof error;
  const backstop::Params& as_params = params;
  EXPECT_EQ(plugin->create(&as_params, &object, &error), BACKSTOP_ERROR_PARAMETER);
  EXPECT_STREQ(error.message, "`channels` must be 1 or 3, got 2");
}
