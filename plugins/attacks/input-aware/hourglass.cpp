#include "hourglass.hpp"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>

at::Tensor squashed(const at::Tensor& z) {
  return z.tanh().div(2 + 1e-7).add(0.5);
}

Hourglass::Hourglass(std::int64_t channels, std::int64_t outputs, std::int64_t width,
                     std::int64_t levels)
    : levels_(levels) {
  const auto add = [&](std::int64_t from, std::int64_t to) {
    blocks_.push_back({at::zeros({to, from, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast),
                       at::ones({to}), at::zeros({to}), at::zeros({to}), at::ones({to})});
    for (at::Tensor& tensor : parameters()) tensor.set_requires_grad(true);
  };
  const auto width_at = [&](std::int64_t level) { return width << level; };
  for (std::int64_t level = 0; level < levels; ++level) {
    add(level == 0 ? channels : width_at(level - 1), width_at(level));
    add(width_at(level), width_at(level));
  }
  add(width_at(levels - 1), width_at(levels - 1));
  for (std::int64_t level = levels - 1; level >= 0; --level) {
    add(width_at(level), width_at(level));
    add(width_at(level), level == 0 ? outputs : width_at(level - 1));
  }
}

void Hourglass::draw(at::Generator& generator) {
  const at::NoGradGuard no_gradients;
  for (const Block& block : blocks_) {
    const double bound = 1 / std::sqrt(static_cast<double>(block.weight[0].numel()));
    block.weight.copy_(at::empty(block.weight.sizes()).uniform_(-bound, bound, generator));
  }
}

at::Tensor Hourglass::forward(const at::Tensor& images, Mode mode, at::ScalarType precision) {
  constexpr double kMomentum = 0.05, kEpsilon = 1e-5;
  at::Tensor x = images.mul(2).sub(1).to(precision).contiguous(at::MemoryFormat::ChannelsLast);
  auto block = blocks_.begin();
  const auto convolve = [&] {
    x = at::conv2d(x, block->weight.to(precision), {}, 1, 1);
    x = at::batch_norm(x, block->scale, block->shift, block->mean, block->variance,
                       mode == Mode::training, kMomentum, kEpsilon, /*cudnn_enabled=*/true);
    if (++block != blocks_.end()) x = x.relu_();
  };

  std::vector<std::vector<std::int64_t>> sizes;
  for (std::int64_t level = 0; level < levels_; ++level) {
    convolve();
    convolve();
    sizes.push_back({x.size(2), x.size(3)});
    x = at::max_pool2d(x, 2);
  }
  convolve();
  for (; !sizes.empty(); sizes.pop_back()) {
    // Back to the size before the halving, which may have been odd.
    if (x.is_cuda()) x = x.to(at::kFloat);  // LibTorch upsamples bfloat16 on CUDA only since 2.1
    x = at::upsample_bilinear2d(x, sizes.back(), /*align_corners=*/false).to(precision);
    convolve();
    convolve();
  }
  return squashed(x.to(images.scalar_type()));
}

std::vector<std::pair<std::string, at::Tensor>> Hourglass::state() const {
  std::vector<std::pair<std::string, at::Tensor>> state;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const std::string name = std::to_string(i);
    state.emplace_back(name + ".convolution.weight", block.weight.detach());
    state.emplace_back(name + ".batch_norm.weight", block.scale.detach());
    state.emplace_back(name + ".batch_norm.bias", block.shift.detach());
    state.emplace_back(name + ".batch_norm.running_mean", block.mean);
    state.emplace_back(name + ".batch_norm.running_var", block.variance);
  }
  return state;
}

std::vector<at::Tensor> Hourglass::parameters() const {
  std::vector<at::Tensor> parameters;
  for (const Block& block : blocks_)
    for (const at::Tensor* tensor : {&block.weight, &block.scale, &block.shift})
      parameters.push_back(*tensor);
  return parameters;
}
