#include "host/engine/train/optimizer.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/optim/sgd.h>

#include "backstop/error.hpp"
#include "host/engine/kernels/vectors.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

/// The weight of a convolution in channels-last, more numbers than one thread takes, a few, and
/// one.
std::vector<at::Tensor> some_parameters() {
  at::Generator generator = make_generator(7);
  const auto random = [&](at::IntArrayRef shape) { return at::randn(shape, generator); };
  return {random({24, 8, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast), random({70'001}),
          random({3, 7}), random({})};
}

std::vector<at::Tensor> copies(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> result;
  for (const at::Tensor& t : tensors) result.push_back(t.clone().set_requires_grad(true));
  return result;
}

void give_gradients(std::vector<at::Tensor>& parameters, std::uint64_t seed) {
  at::Generator generator = make_generator(seed);
  for (at::Tensor& p : parameters)
    p.mutable_grad() = at::empty_like(p).copy_(at::randn(p.sizes(), generator));
}

OptimizerOptions sgd(double momentum, double weight_decay, bool nesterov) {
  OptimizerOptions options;
  options.kind = OptimizerKind::sgd;
  options.momentum = momentum;
  options.weight_decay = weight_decay;
  options.nesterov = nesterov;
  return options;
}

const OptimizerOptions kSettings[] = {sgd(0, 0, false), sgd(0, 5e-4, false), sgd(0.9, 0, false),
                                      sgd(0.9, 5e-4, false), sgd(0.9, 5e-4, true)};
constexpr double kRates[] = {0.1, 0.001, 0.05, 0.3};

TEST(Sgd, EqualsLibTorchs) {
  for (const OptimizerOptions& o : kSettings) {
    auto ours = copies(some_parameters()), theirs = copies(some_parameters());
    const auto optimizer = make_optimizer(ours, o);
    torch::optim::SGD reference(theirs, torch::optim::SGDOptions(0)
                                            .momentum(o.momentum)
                                            .weight_decay(o.weight_decay)
                                            .nesterov(o.nesterov));
    std::uint64_t seed = 0;
    for (const double rate : kRates) {
      give_gradients(ours, ++seed);
      give_gradients(theirs, seed);
      optimizer->set_rate(rate);
      optimizer->step();
      reference.param_groups()[0].options().set_lr(rate);
      reference.step();
      for (std::size_t i = 0; i < ours.size(); ++i) {
        EXPECT_TRUE(ours[i].allclose(theirs[i], 1e-5, 1e-6)) << "parameter " << i;
        // LibTorch rounds once more at the ends of its vectors.
        if (vectors::has_avx512() && i == 0) {
          EXPECT_TRUE(ours[i].equal(theirs[i]));
        }
      }
    }
  }
}

TEST(Sgd, IsTheSameOnADevice) {
  for (const OptimizerOptions& o : kSettings) {
    auto ours = copies(some_parameters()), there = copies(some_parameters());
    const auto optimizer = make_optimizer(ours, o);
    std::vector<at::Tensor> buffers;
    if (o.momentum != 0)
      for (const at::Tensor& p : there) buffers.push_back(at::zeros_like(p));
    std::uint64_t seed = 0;
    for (const double rate : kRates) {
      give_gradients(ours, ++seed);
      give_gradients(there, seed);
      optimizer->set_rate(rate);
      optimizer->step();
      const at::NoGradGuard no_gradients;
      std::vector<at::Tensor> weights, gradients;
      for (const at::Tensor& p : there) {
        weights.push_back(p.detach());
        gradients.push_back(p.grad());
      }
      sgd_step(weights, gradients, buffers, {o.momentum, o.weight_decay, o.nesterov},
               at::full({}, rate, at::kFloat));
      for (std::size_t i = 0; i < ours.size(); ++i)
        EXPECT_TRUE(ours[i].allclose(there[i], 1e-5, 1e-6)) << "parameter " << i;
    }
  }
}

TEST(Sgd, AcceptsGradientsInAnyMemoryFormat) {
  auto ours = copies(some_parameters()), other = copies(some_parameters());
  give_gradients(ours, 1);
  for (std::size_t i = 0; i < ours.size(); ++i)
    other[i].mutable_grad() = ours[i].grad().contiguous(at::MemoryFormat::Contiguous);
  ASSERT_NE(ours[0].grad().strides(), other[0].grad().strides());
  for (auto* parameters : {&ours, &other}) {
    const auto optimizer = make_optimizer(*parameters, sgd(0.9, 5e-4, false));
    optimizer->set_rate(0.1);
    optimizer->step();
  }
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(ours[i].equal(other[i]));
}

TEST(Sgd, KeepsParametersWithoutGradients) {
  auto parameters = copies(some_parameters());
  const at::Tensor before = parameters[1].detach().clone();
  give_gradients(parameters, 1);
  parameters[1].mutable_grad().reset();
  const auto optimizer = make_optimizer(parameters, sgd(0.9, 5e-4, false));
  optimizer->set_rate(0.1);
  optimizer->step();
  EXPECT_TRUE(parameters[1].equal(before));
  EXPECT_FALSE(parameters[0].equal(some_parameters()[0]));
  const auto idle = make_optimizer({}, sgd(0.9, 5e-4, false));
  idle->set_rate(0.1);
  idle->step();
}

TEST(Adam, LearnsAndOnlySgdCanBeRecorded) {
  for (const OptimizerKind kind : {OptimizerKind::adam, OptimizerKind::adamw}) {
    auto parameters = copies(some_parameters());
    OptimizerOptions options;
    options.kind = kind;
    const auto optimizer = make_optimizer(parameters, options);
    EXPECT_FALSE(optimizer->recordable());
    give_gradients(parameters, 1);
    optimizer->set_rate(0.1);
    optimizer->step();
    // The first step has the size of the learning rate and the opposite sign of the gradient,
    // unless that is almost 0.
    const at::Tensor expected = some_parameters()[1] - 0.1 * parameters[1].grad().sign();
    EXPECT_LT((parameters[1] - expected).abs().median().item<double>(), 1e-3);
  }
  EXPECT_TRUE(make_optimizer({}, sgd(0, 0, false))->recordable());
  OptimizerOptions unknown;
  unknown.kind = static_cast<OptimizerKind>(9);
  EXPECT_THROW(make_optimizer({}, unknown), Error);
}

}  // namespace
}  // namespace backstop::engine
