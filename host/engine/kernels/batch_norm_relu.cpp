#include "host/engine/kernels/batch_norm_relu.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "host/engine/compute.hpp"
#include "host/engine/kernels/batch_norm_kernels.hpp"
#include "host/engine/kernels/parallel.hpp"

namespace backstop::engine {

namespace {

namespace kernels = batch_norm;
using at::Tensor;

/// How the pixels of a tensor are split into blocks. Nothing here depends on the number of threads.
struct Blocks {
  std::size_t channels, pixels, period, size, count;

  explicit Blocks(const Tensor& x)
      : channels(static_cast<std::size_t>(x.size(1))),
        pixels(static_cast<std::size_t>(x.numel()) / channels) {
    constexpr std::size_t kPeriod = 64, kElements = 1 << 15;
    const std::size_t together = std::max<std::size_t>(1, kPeriod / channels);
    period = pixels % together == 0 ? channels * together : channels;
    size = std::max<std::size_t>(1, kElements / period) * period;
    count = (pixels * channels + size - 1) / size;
  }

  /// Calls f(block, first element, elements) for every block, on all threads.
  template <typename F>
  void each(const F& f) const {
    const std::size_t all = pixels * channels;
    const auto blocks = static_cast<std::int64_t>(count);
    parallel_pieces(blocks, [&](const auto& next) {
      for (std::int64_t block = next(); block < blocks; block = next()) {
        const auto i = static_cast<std::size_t>(block);
        f(i, i * size, std::min(size, all - i * size));
      }
    });
  }

  /// Values by channel, repeated to [period] as the loops need them.
  [[nodiscard]] std::vector<float> repeated(const std::vector<float>& values) const {
    std::vector<float> result;
    for (std::size_t at = 0; at < period; at += channels)
      result.insert(result.end(), values.begin(), values.end());
    return result;
  }

  /// Adds up what the blocks wrote, `period` numbers each, to [channels].
  [[nodiscard]] std::vector<double> total(const std::vector<float>& parts) const {
    std::vector<double> result(channels);
    for (std::size_t i = 0; i < parts.size(); ++i)
      result[i % channels] += static_cast<double>(parts[i]);
    return result;
  }

  [[nodiscard]] std::vector<float> room() const { return std::vector<float>(count * period); }
};

std::vector<float> values_of(const Tensor& vector) {
  const auto* data = vector.data_ptr<float>();
  return {data, data + vector.numel()};
}

/// Mean and 1 / sqrt(variance + epsilon) of every channel, float32 [2, C]; the running statistics
/// follow.
template <typename T>
Tensor batch_statistics(const Tensor& x, const Tensor& running_mean, const Tensor& running_var,
                        double momentum, double epsilon) {
  const Blocks blocks(x);
  const std::size_t channels = blocks.channels;
  const T* data = x.data_ptr<T>();
  // Sums of squares lose no digits if what is squared is small, so the first pixel is subtracted.
  const std::vector<float> first(data, data + channels), shift = blocks.repeated(first);
  std::vector<float> sum = blocks.room(), square = blocks.room();
  blocks.each([&](std::size_t block, std::size_t at, std::size_t size) {
    kernels::sums(data + at, size, blocks.period, shift.data(), &sum[block * blocks.period],
                  &square[block * blocks.period]);
  });
  const std::vector<double> sums = blocks.total(sum), squares = blocks.total(square);
  Tensor result = at::empty({2, x.size(1)}, at::kFloat);
  auto* mean = result.data_ptr<float>();
  auto* inverse = mean + channels;
  auto* kept_mean = running_mean.data_ptr<float>();
  auto* kept_var = running_var.data_ptr<float>();
  const auto n = static_cast<double>(blocks.pixels);
  for (std::size_t c = 0; c < channels; ++c) {
    const double distance = sums[c] / n;
    const double variance = std::max(squares[c] / n - distance * distance, 0.0);
    const double average = static_cast<double>(first[c]) + distance;
    mean[c] = static_cast<float>(average);
    inverse[c] = static_cast<float>(1 / std::sqrt(variance + epsilon));
    const double unbiased = variance * n / std::max(n - 1, 1.0);
    kept_mean[c] = static_cast<float>((1 - momentum) * kept_mean[c] + momentum * average);
    kept_var[c] = static_cast<float>((1 - momentum) * kept_var[c] + momentum * unbiased);
  }
  return result;
}

template <typename T>
Tensor affine_relu(const Tensor& x, const NormAffine& affine) {
  const Blocks blocks(x);
  const auto scale = blocks.repeated(affine.scale), offset = blocks.repeated(affine.offset);
  Tensor y = at::empty_like(x);
  const T* from = x.data_ptr<T>();
  T* to = y.data_ptr<T>();
  blocks.each([&](std::size_t, std::size_t at, std::size_t size) {
    kernels::forward(from + at, to + at, size, blocks.period, scale.data(), offset.data());
  });
  return y;
}

template <typename T>
NormGradients differentiate(const Tensor& x, const Tensor& dy, const NormAffine& affine,
                            bool of_batch, bool input_needed) {
  const Blocks blocks(x);
  const std::size_t channels = blocks.channels;
  const T* data = x.data_ptr<T>();
  const T* gradient = dy.data_ptr<T>();
  const auto scale = blocks.repeated(affine.scale), offset = blocks.repeated(affine.offset),
             mean = blocks.repeated(affine.mean);
  std::vector<float> sum = blocks.room(), product = blocks.room();
  blocks.each([&](std::size_t block, std::size_t at, std::size_t size) {
    kernels::backward_sums(data + at, gradient + at, size, blocks.period, scale.data(),
                           offset.data(), mean.data(), &sum[block * blocks.period],
                           &product[block * blocks.period]);
  });
  const std::vector<double> sums = blocks.total(sum), products = blocks.total(product);
  NormGradients result{{}, at::empty({x.size(1)}), at::empty({x.size(1)})};
  std::vector<float> slope(channels), level(channels);
  const auto n = static_cast<double>(blocks.pixels);
  for (std::size_t c = 0; c < channels; ++c) {
    const auto inverse = static_cast<double>(affine.inverse[c]);
    const auto a = static_cast<double>(affine.scale[c]);
    result.weight.data_ptr<float>()[c] = static_cast<float>(products[c] * inverse);
    result.bias.data_ptr<float>()[c] = static_cast<float>(sums[c]);
    if (!of_batch) continue;
    const double p = -a * inverse * inverse * products[c] / n;
    slope[c] = static_cast<float>(p);
    level[c] = static_cast<float>(-a * sums[c] / n - p * static_cast<double>(affine.mean[c]));
  }
  if (!input_needed) return result;
  result.input = at::empty_like(x);
  T* to = result.input.data_ptr<T>();
  const auto slopes = blocks.repeated(slope), levels = blocks.repeated(level);
  blocks.each([&](std::size_t, std::size_t at, std::size_t size) {
    kernels::backward(data + at, gradient + at, to + at, size, blocks.period, scale.data(),
                      offset.data(), slopes.data(), levels.data());
  });
  return result;
}

class BatchNormRelu : public torch::autograd::Function<BatchNormRelu> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                        const Tensor& weight, const Tensor& bias, const Tensor& statistics,
                        bool of_batch) {
    ctx->save_for_backward({x, weight, bias, statistics});
    ctx->saved_data["of_batch"] = of_batch;
    const NormAffine affine(statistics, weight, bias);
    return x.scalar_type() == at::kFloat ? affine_relu<float>(x, affine)
                                         : affine_relu<at::BFloat16>(x, affine);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const NormGradients result = batch_norm_relu_backward(
        saved[0], saved[1], saved[2], {saved[3], ctx->saved_data["of_batch"].toBool()},
        gradients[0], ctx->needs_input_grad(0));
    return {result.input, result.weight, result.bias, Tensor(), Tensor()};
  }
};

}  // namespace

NormAffine::NormAffine(const Tensor& statistics, const Tensor& weight, const Tensor& bias)
    : mean(values_of(statistics[0])),
      inverse(values_of(statistics[1])),
      scale(values_of(weight)),
      offset(values_of(bias)) {
  for (std::size_t c = 0; c < scale.size(); ++c) {
    scale[c] *= inverse[c];
    offset[c] -= mean[c] * scale[c];
  }
}

bool can_normalize(const torch::nn::BatchNorm2dImpl& norm, const Tensor& x) {
  constexpr std::int64_t kLanes = 16;
  const auto type = x.scalar_type();
  return own_kernels() && x.is_cpu() && (type == at::kFloat || type == at::kBFloat16) &&
         x.dim() == 4 && x.numel() > 0 && x.size(1) % kLanes == 0 &&
         x.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         norm.weight.scalar_type() == at::kFloat && norm.options.momentum().has_value();
}

Statistics statistics_of(torch::nn::BatchNorm2dImpl& norm, const Tensor& x) {
  const at::NoGradGuard no_grad;
  const double epsilon = norm.options.eps();
  if (!norm.is_training())
    return {at::stack({norm.running_mean, norm.running_var.add(epsilon).rsqrt()}), false};
  norm.num_batches_tracked += 1;
  const double momentum = *norm.options.momentum();
  const auto of =
      x.scalar_type() == at::kFloat ? batch_statistics<float> : batch_statistics<at::BFloat16>;
  return {of(x, norm.running_mean, norm.running_var, momentum, epsilon), true};
}

Tensor batch_norm_relu(const Tensor& x, const Tensor& weight, const Tensor& bias,
                       const Statistics& statistics) {
  return BatchNormRelu::apply(x, weight, bias, statistics.values, statistics.of_batch);
}

Tensor batch_norm_relu(torch::nn::BatchNorm2dImpl& norm, const Tensor& x) {
  if (!can_normalize(norm, x)) return norm.forward(x).relu_();
  return batch_norm_relu(x, norm.weight, norm.bias, statistics_of(norm, x));
}

NormGradients batch_norm_relu_backward(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                       const Statistics& statistics, const Tensor& dy,
                                       bool input_needed) {
  const Tensor& values = statistics.values;
  if (at::GradMode::is_enabled()) {
    // These gradients will be differentiated again, which LibTorch's operators can do.
    const Tensor scale = weight * values[1], offset = bias - values[0] * scale;
    const Tensor y =
        x.detach() * scale.detach().view({1, -1, 1, 1}) + offset.detach().view({1, -1, 1, 1});
    const Tensor g = dy * y.gt(0);
    // The given statistics count as running ones, with 1 / sqrt(variance + 0).
    const auto [dx, dw, db] =
        at::native_batch_norm_backward(g, x, weight, values[0], values[1].pow(-2), values[0],
                                       values[1], statistics.of_batch, 0.0, {true, true, true});
    return {dx, dw, db};
  }
  const NormAffine affine(values, weight, bias);
  const Tensor gradient = dy.to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
  const auto of =
      x.scalar_type() == at::kFloat ? differentiate<float> : differentiate<at::BFloat16>;
  return of(x, gradient, affine, statistics.of_batch, input_needed);
}

}  // namespace backstop::engine
