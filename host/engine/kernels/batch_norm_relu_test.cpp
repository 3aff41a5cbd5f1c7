#include "host/engine/kernels/batch_norm_relu.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include "host/engine/compute.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

struct Shape {
  std::int64_t images, channels, side;
  at::ScalarType type;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.images << "x" << shape.channels << "x" << shape.side << "x" << shape.side
             << " " << c10::toString(shape.type);
}

/// The results of one way of computing it, in double precision.
struct Result {
  at::Tensor output, input_gradient, weight_gradient, bias_gradient, running_mean, running_var;
};

class BatchNormReluTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    const auto& s = GetParam();
    at::Generator generator = make_generator(7);
    const auto normal = [&](at::IntArrayRef sizes) {
      return at::empty(sizes, at::kFloat).normal_(0, 1, generator);
    };
    // Channels far from zero and of different scales.
    x_ = normal({s.images, s.channels, s.side, s.side})
             .mul(normal({1, s.channels, 1, 1}).exp())
             .add(normal({1, s.channels, 1, 1}).mul(3))
             .to(s.type)
             .contiguous(at::MemoryFormat::ChannelsLast);
    gradient_ = normal(x_.sizes()).to(s.type).contiguous(at::MemoryFormat::ChannelsLast);
    weight_ = normal({s.channels});
    bias_ = normal({s.channels});
    mean_ = normal({s.channels});
    var_ = normal({s.channels}).exp();
  }
  void TearDown() override { use_own_kernels(true); }

  torch::nn::BatchNorm2d norm(at::ScalarType type, bool training) const {
    torch::nn::BatchNorm2d result(GetParam().channels);
    result->to(type);
    const at::NoGradGuard no_grad;
    result->weight.copy_(weight_);
    result->bias.copy_(bias_);
    result->running_mean.copy_(mean_);
    result->running_var.copy_(var_);
    result->train(training);
    return result;
  }

  Result compute(bool own, bool training) const {
    use_own_kernels(own);
    // LibTorch's in double precision: what both kernels round.
    const auto type = own ? GetParam().type : at::kDouble;
    auto layer = norm(own ? at::kFloat : at::kDouble, training);
    const at::Tensor x = x_.to(type).detach().requires_grad_();
    const at::Tensor y = batch_norm_relu(*layer, x);
    y.backward(gradient_.to(type));
    EXPECT_EQ(y.scalar_type(), type);
    EXPECT_EQ(layer->num_batches_tracked.item<std::int64_t>(), training);
    return {y.detach().to(at::kDouble),           x.grad().to(at::kDouble),
            layer->weight.grad().to(at::kDouble), layer->bias.grad().to(at::kDouble),
            layer->running_mean.to(at::kDouble),  layer->running_var.to(at::kDouble)};
  }

  at::Tensor x_, gradient_, weight_, bias_, mean_, var_;
};

INSTANTIATE_TEST_SUITE_P(Shapes, BatchNormReluTest,
                         testing::Values(Shape{8, 16, 8, at::kFloat}, Shape{3, 16, 5, at::kFloat},
                                         Shape{64, 64, 32, at::kBFloat16},
                                         Shape{5, 48, 3, at::kBFloat16},
                                         Shape{7, 32, 1, at::kBFloat16},
                                         Shape{9, 528, 4, at::kBFloat16}));

/// Largest distance, relative to the largest number expected.
double distance(const at::Tensor& is, const at::Tensor& expected) {
  return (is - expected).abs().max().item<double>() /
         std::max(expected.abs().max().item<double>(), 1e-12);
}

TEST_P(BatchNormReluTest, EqualsLibTorchs) {
  const double output = GetParam().type == at::kFloat ? 3e-6 : 4e-3;
  for (const bool training : {true, false}) {
    const Result own = compute(true, training), plain = compute(false, training);
    EXPECT_LT(distance(own.output, plain.output), output) << training;
    EXPECT_LT(distance(own.input_gradient, plain.input_gradient), output) << training;
    EXPECT_LT(distance(own.weight_gradient, plain.weight_gradient), 1e-5) << training;
    EXPECT_LT(distance(own.bias_gradient, plain.bias_gradient), 1e-5) << training;
    EXPECT_LT(distance(own.running_mean, plain.running_mean), 1e-6) << training;
    EXPECT_LT(distance(own.running_var, plain.running_var), 1e-5) << training;
  }
}

TEST_P(BatchNormReluTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Result one = compute(true, true);
  at::set_num_threads(2);
  const Result two = compute(true, true);
  at::set_num_threads(before);
  EXPECT_TRUE(one.output.equal(two.output));
  EXPECT_TRUE(one.input_gradient.equal(two.input_gradient));
  EXPECT_TRUE(one.weight_gradient.equal(two.weight_gradient));
  EXPECT_TRUE(one.running_var.equal(two.running_var));
}

class BatchNormReluTwiceTest : public BatchNormReluTest {};
INSTANTIATE_TEST_SUITE_P(Shapes, BatchNormReluTwiceTest,
                         testing::Values(Shape{8, 16, 8, at::kFloat}, Shape{3, 16, 5, at::kFloat}));

TEST_P(BatchNormReluTwiceTest, CanBeDifferentiatedTwice) {
  for (const bool training : {true, false}) {
    std::vector<at::Tensor> second;
    for (const bool own : {true, false}) {
      use_own_kernels(own);
      auto layer = norm(at::kFloat, training);
      const at::Tensor x = x_.detach().requires_grad_();
      const at::Tensor y = batch_norm_relu(*layer, x);
      const auto first = torch::autograd::grad({y.pow(2).sum()}, {x}, {}, true, true);
      second.push_back(torch::autograd::grad({(first[0] * gradient_).sum()}, {layer->weight})[0]);
    }
    EXPECT_LT(distance(second[0], second[1]), 1e-4) << training;
  }
}

TEST(BatchNormRelu, KeepsNaN) {
  torch::nn::BatchNorm2d layer(16);
  layer->eval();
  const at::Tensor x = at::zeros({1, 16, 2, 2}).contiguous(at::MemoryFormat::ChannelsLast);
  x[0][3][1][1] = std::nan("");
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor y = batch_norm_relu(*layer, x.to(type));
    EXPECT_TRUE(y.isnan().equal(x.isnan()));
  }
}

TEST(BatchNormRelu, LeavesTheRestToLibTorch) {
  torch::nn::BatchNorm2d layer(16), narrow(8);
  const at::Tensor x = at::rand({2, 16, 4, 4}), y = at::rand({2, 8, 4, 4});
  const auto name = [](const at::Tensor& t) { return t.grad_fn()->name(); };
  const auto last = at::MemoryFormat::ChannelsLast;
  EXPECT_NE(name(batch_norm_relu(*layer, x.contiguous(last))), "ReluBackward0");
  EXPECT_EQ(name(batch_norm_relu(*layer, x)), "ReluBackward0");
  EXPECT_EQ(name(batch_norm_relu(*narrow, y.contiguous(last))), "ReluBackward0");
  use_own_kernels(false);
  EXPECT_EQ(name(batch_norm_relu(*layer, x.contiguous(last))), "ReluBackward0");
  use_own_kernels(true);
}

}  // namespace
}  // namespace backstop::engine
