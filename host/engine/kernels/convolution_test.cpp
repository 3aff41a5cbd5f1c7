#include "host/engine/kernels/convolution.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include "host/engine/compute.hpp"
#include "host/engine/kernels/batch_norm_relu.hpp"
#include "host/engine/kernels/convolution_kernels.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

struct Shape {
  std::int64_t images, in, out, side, kernel, stride;
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.images << "x" << s.in << "x" << s.side << "x" << s.side << " to " << s.out << ", "
             << s.kernel << "x" << s.kernel << " / " << s.stride;
}

struct Result {
  at::Tensor output, input_gradient, weight_gradient;
  std::string node;
};

double distance(const at::Tensor& is, const at::Tensor& expected) {
  return (is - expected).to(at::kDouble).norm().item<double>() /
         expected.to(at::kDouble).norm().item<double>();
}

class Convolution : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!convolution_kernels::available()) GTEST_SKIP() << "these kernels need AMX";
    const auto& s = GetParam();
    at::Generator generator = make_generator(5);
    const auto draw = [&](at::IntArrayRef sizes) {
      return at::empty(sizes, at::kFloat)
          .normal_(0, 1, generator)
          .to(at::kBFloat16)
          .to(at::kFloat)
          .contiguous(at::MemoryFormat::ChannelsLast);
    };
    x_ = draw({s.images, s.in, s.side, s.side});
    weight_ = draw({s.out, s.in, s.kernel, s.kernel});
    const std::int64_t side = (s.side + s.kernel / 2 * 2 - s.kernel) / s.stride + 1;
    gradient_ = draw({s.images, s.out, side, side});
  }
  void TearDown() override { use_own_kernels(true); }

  torch::nn::Conv2d layer() const {
    const auto& s = GetParam();
    torch::nn::Conv2d conv(torch::nn::Conv2dOptions(s.in, s.out, s.kernel)
                               .stride(s.stride)
                               .padding(s.kernel / 2)
                               .bias(false));
    const at::NoGradGuard no_grad;
    conv->weight.set_data(weight_.clone());
    return conv;
  }

  /// Computes in bfloat16, or in float32 as LibTorch does.
  Result compute(bool bfloat16, bool own = true) const {
    use_own_kernels(own);
    auto conv = layer();
    const at::Tensor x = x_.detach().clone().requires_grad_();
    Result result;
    {
      const AutocastGuard precision(c10::kCPU, bfloat16);
      result.output = convolution(*conv, x);
    }
    result.node = result.output.grad_fn()->name();
    // In place, as a residual block adds.
    result.output.add_(0).backward(gradient_.to(result.output.scalar_type()));
    result.output = result.output.detach();
    result.input_gradient = x.grad();
    result.weight_gradient = conv->weight.grad();
    return result;
  }

  at::Tensor x_, weight_, gradient_;
};

INSTANTIATE_TEST_SUITE_P(Shapes, Convolution,
                         testing::Values(Shape{3, 32, 48, 4, 3, 1}, Shape{2, 16, 64, 8, 3, 2},
                                         Shape{2, 16, 32, 16, 1, 2}, Shape{2, 16, 32, 7, 3, 2},
                                         Shape{1, 16, 16, 2, 3, 1}, Shape{2, 48, 16, 8, 3, 1},
                                         Shape{2, 32, 16, 5, 7, 3}, Shape{2, 16, 16, 16, 3, 2},
                                         Shape{3, 16, 16, 1, 3, 1}, Shape{40, 16, 16, 8, 3, 1},
                                         Shape{9, 176, 160, 4, 3, 1}, Shape{5, 144, 96, 9, 3, 2},
                                         Shape{2, 16, 16, 130, 3, 1}));

TEST_P(Convolution, EqualsLibTorchsFloat32UpToRounding) {
  const Result own = compute(true), plain = compute(false);
  EXPECT_EQ(own.output.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(own.output.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_EQ(own.weight_gradient.scalar_type(), at::kFloat);
  EXPECT_NE(own.node, plain.node);
  EXPECT_LT(distance(own.output, plain.output), 4e-3);
  EXPECT_LT(distance(own.input_gradient, plain.input_gradient), 4e-3);
  EXPECT_LT(distance(own.weight_gradient, plain.weight_gradient), 4e-3);
}

TEST_P(Convolution, IsLibTorchsWhenSwitchedOff) {
  EXPECT_EQ(compute(true, false).node, compute(false).node);
  use_own_kernels(false);
  auto conv = layer();
  const AutocastGuard precision(c10::kCPU, true);
  EXPECT_TRUE(convolution(*conv, x_).equal(conv->forward(x_)));
}

TEST_P(Convolution, CanBeDifferentiatedTwice) {
  std::vector<at::Tensor> second;
  for (const bool own : {true, false}) {
    use_own_kernels(own);
    auto conv = layer();
    const at::Tensor x = x_.detach().clone().requires_grad_();
    at::Tensor y;
    {
      const AutocastGuard precision(c10::kCPU, true);
      y = convolution(*conv, x);
    }
    const auto first = torch::autograd::grad({y.to(at::kFloat).pow(2).sum()}, {x}, {}, true, true);
    second.push_back(torch::autograd::grad({first[0].pow(2).sum()}, {conv->weight})[0]);
  }
  EXPECT_LT(distance(second[0], second[1]), 1e-2);
}

/// A layer with random parameters and statistics.
torch::nn::BatchNorm2d random_norm(std::int64_t channels, bool training) {
  at::Generator generator = make_generator(6);
  const at::NoGradGuard no_grad;
  torch::nn::BatchNorm2d norm(channels);
  norm->weight.normal_(1, 0.5, generator);
  norm->bias.normal_(0.5, 0.5, generator);  // so that padding differs from what a zero would give
  norm->running_mean.normal_(0, 1, generator);
  norm->running_var.uniform_(0.5, 2, generator);
  norm->train(training);
  return norm;
}

TEST_P(Convolution, FusedWithItsNeighborsEqualsTheSeparateLayers) {
  const at::NoGradGuard no_grad;
  const auto& s = GetParam();
  auto conv = layer();
  auto before = random_norm(s.in, false), after = random_norm(s.out, false);
  const at::Tensor add = gradient_.to(at::kBFloat16);
  const auto plainly = [&](bool first, bool second, bool more, bool relu) {
    at::Tensor y = conv->forward(first ? before->forward(x_).relu() : x_);
    if (second) y = after->forward(y);
    if (more) y = y + gradient_;
    return relu ? y.relu() : y;
  };
  for (int which = 0; which < 16; ++which) {
    const bool first = which & 1, second = which & 2, more = which & 4, relu = which & 8;
    Neighbors neighbors;
    if (first) neighbors.before = before.get();
    if (second) neighbors.after = after.get();
    if (more) neighbors.add = add;
    neighbors.relu = relu;
    const at::Tensor expected = plainly(first, second, more, relu);
    const AutocastGuard precision(c10::kCPU, true);
    ASSERT_TRUE(can_infer(*conv, *before, x_));
    const at::Tensor is = infer(*conv, x_, neighbors);
    EXPECT_TRUE(is.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_LT(distance(is, expected), 8e-3) << first << second << more << relu;
  }
  const AutocastGuard precision(c10::kCPU, true);
  before->train();
  EXPECT_FALSE(can_infer(*conv, *before, x_));
  const at::AutoGradMode gradients(true);
  before->eval();
  EXPECT_FALSE(can_infer(*conv, *before, x_));
}

TEST_P(Convolution, FusedWithNormalizationGivesTheBitsOfTheTwoLayers) {
  for (int which = 0; which < 4; ++which) {
    const bool training = which & 1, adds = which & 2;
    std::vector<std::vector<at::Tensor>> results;
    for (const bool together : {true, false}) {
      auto conv = layer();
      auto norm = random_norm(GetParam().in, training);
      const at::Tensor x = x_.to(at::kBFloat16).requires_grad_();
      const at::Tensor add = adds ? gradient_.to(at::kBFloat16).requires_grad_() : at::Tensor();
      at::Tensor y;
      {
        const AutocastGuard precision(c10::kCPU, true);
        y = together ? normalized_convolution(*norm, *conv, x, add)
                     : convolution(*conv, batch_norm_relu(*norm, x), add);
      }
      y.backward(gradient_.to(at::kBFloat16));
      results.push_back({y.detach(), x.grad(), conv->weight.grad(), norm->weight.grad(),
                         norm->bias.grad(), norm->running_mean, norm->running_var});
      if (adds) results.back().push_back(add.grad());
    }
    for (std::size_t i = 0; i < results[0].size(); ++i)
      EXPECT_TRUE(results[0][i].equal(results[1][i])) << i << ", training " << training;
  }
}

TEST_P(Convolution, FusedWithNormalizationCanBeDifferentiatedTwice) {
  for (const bool training : {true, false}) {
    std::vector<std::vector<at::Tensor>> second;
    for (const bool together : {true, false}) {
      auto conv = layer();
      auto norm = random_norm(GetParam().in, training);
      const at::Tensor x = x_.to(at::kBFloat16).requires_grad_();
      at::Tensor y;
      {
        const AutocastGuard precision(c10::kCPU, true);
        y = together ? normalized_convolution(*norm, *conv, x)
                     : convolution(*conv, batch_norm_relu(*norm, x));
      }
      const auto first =
          torch::autograd::grad({y.to(at::kFloat).pow(2).sum()}, {x}, {}, true, true);
      second.push_back(torch::autograd::grad({first[0].to(at::kFloat).pow(2).sum()},
                                             {conv->weight, norm->weight}));
    }
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_GT(second[0][i].abs().sum().item<double>(), 0);
      EXPECT_LT(distance(second[0][i], second[1][i]), 1e-2) << i << ", training " << training;
    }
  }
}

TEST_P(Convolution, FusedWithNormalizationLearnsOnlyWhatRequiresGradients) {
  auto conv = layer();
  auto norm = random_norm(GetParam().in, false);
  norm->weight.set_requires_grad(false);
  norm->bias.set_requires_grad(false);
  const at::Tensor x = x_.to(at::kBFloat16);
  at::Tensor y;
  {
    const AutocastGuard precision(c10::kCPU, true);
    y = normalized_convolution(*norm, *conv, x);
  }
  y.backward(gradient_.to(at::kBFloat16));
  EXPECT_TRUE(conv->weight.grad().defined());
  EXPECT_FALSE(norm->weight.grad().defined());
  EXPECT_FALSE(x.grad().defined());
}

TEST_P(Convolution, AddsAndPassesTheGradientThrough) {
  auto conv = layer();
  const at::Tensor add = gradient_.to(at::kBFloat16).requires_grad_();
  const at::Tensor plain = conv->forward(x_) + gradient_;
  at::Tensor y;
  {
    const AutocastGuard precision(c10::kCPU, true);
    y = convolution(*conv, x_, add);
  }
  EXPECT_LT(distance(y, plain), 4e-3);
  y.backward(gradient_.to(at::kBFloat16) * 2);
  EXPECT_TRUE(add.grad().equal(gradient_.to(at::kBFloat16) * 2));
}

TEST_P(Convolution, GivesTheSameBitsOnOneThreadAndOnThree) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Result one = compute(true);
  at::set_num_threads(3);
  const Result three = compute(true);
  at::set_num_threads(threads);
  EXPECT_TRUE(one.output.equal(three.output));
  EXPECT_TRUE(one.input_gradient.equal(three.input_gradient));
  EXPECT_TRUE(one.weight_gradient.equal(three.weight_gradient));
}

TEST(UnsupportedConvolution, IsLibTorchs) {
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(16, 16, 3).padding(1).bias(false));
  const at::Tensor wide = at::rand({1, 16, 4, 6}), small = at::rand({1, 16, 4, 4});
  EXPECT_TRUE(convolution(*conv, small).equal(conv->forward(small)));  // float32
  torch::nn::Conv2d odd(torch::nn::Conv2dOptions(24, 16, 3).padding(1).bias(false));
  const at::Tensor of_24 = at::rand({1, 24, 4, 4});
  const AutocastGuard precision(c10::kCPU, true);
  EXPECT_TRUE(convolution(*odd, of_24).equal(odd->forward(of_24)));
  EXPECT_TRUE(convolution(*conv, wide).equal(conv->forward(wide)));
}

}  // namespace
}  // namespace backstop::engine
