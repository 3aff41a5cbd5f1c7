#include "host/engine/convolution.hpp"

#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "host/engine/compute.hpp"
#include "host/engine/convolution_kernels.hpp"
#include "host/engine/libtorch.hpp"

namespace backstop::host {

namespace {

namespace kernels = convolution_kernels;
using at::BFloat16;
using at::Tensor;
using kernels::Window;

/// Which of a convolution's three products are matrix products: where they win, measured on two AMX
/// cores, docs/performance.md.
struct Plan {
  bool forward, input_gradient, weight_gradient;

  explicit Plan(const Window& w)
      : forward(w.out_side <= 4 && w.kernel > 1),
        input_gradient(w.out_side <= 4 || (w.out_side <= 8 && w.stride > 1)),
        weight_gradient(w.out_side <= 8) {}
};

Window window_of(const Tensor& x, const Tensor& weight, std::int64_t stride) {
  Window w;
  w.channels = static_cast<std::size_t>(x.size(1));
  w.side = x.size(2);
  w.kernel = weight.size(2);
  w.stride = stride;
  w.padding = w.kernel / 2;
  w.out_side = (w.side + 2 * w.padding - w.kernel) / stride + 1;
  return w;
}

std::int64_t columns(const Window& w) {
  return w.kernel * w.kernel * static_cast<std::int64_t>(w.channels);
}

/// Numbers of an image, before and after unfold().
std::int64_t pixels_in(const Window& w) {
  return w.side * w.side * static_cast<std::int64_t>(w.channels);
}
std::int64_t pixels_out(const Window& w) {
  return w.out_side * w.out_side * columns(w);
}

at::TensorOptions channels_last() {
  return at::TensorOptions(at::kBFloat16).memory_format(at::MemoryFormat::ChannelsLast);
}

/// All input pixels under the kernel side by side, for every output pixel: bfloat16
/// [N * H' * W', kernel * kernel * in]. `x`: channels last.
Tensor unfold(const Tensor& x, const Window& w) {
  Tensor result = at::empty({x.size(0) * w.out_side * w.out_side, columns(w)}, at::kBFloat16);
  const auto* from = x.data_ptr<BFloat16>();
  auto* const to = result.data_ptr<BFloat16>();
  at::parallel_for(0, x.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      kernels::unfold(from + n * pixels_in(w), w, to + n * pixels_out(w));
  });
  return result;
}

/// The sum, for every input pixel, of what unfold() made of it: bfloat16 [N, in, H, W], channels
/// last. Sums are float32.
Tensor fold(const Tensor& unfolded, std::int64_t images, const Window& w) {
  Tensor result =
      at::empty({images, static_cast<std::int64_t>(w.channels), w.side, w.side}, channels_last());
  const auto* from = unfolded.data_ptr<BFloat16>();
  auto* const to = result.data_ptr<BFloat16>();
  at::parallel_for(0, images, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      kernels::fold(from + n * pixels_out(w), w, to + n * pixels_in(w));
  });
  return result;
}

/// [N, C, H, W] of channels last as [N * H * W, C], sharing memory.
Tensor pixels(const Tensor& map) {
  return map.permute({0, 2, 3, 1}).reshape({-1, map.size(1)});
}

Tensor last(const Tensor& x) {
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

/// [out, kernel * kernel * in], in unfold()'s order.
Tensor flat_weight(const Tensor& weight) {
  return last(weight).permute({0, 2, 3, 1}).reshape({weight.size(0), -1});
}

class MatrixConvolution : public torch::autograd::Function<MatrixConvolution> {
 public:
  /// x, weight: bfloat16.
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                        const Tensor& weight, std::int64_t stride) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["stride"] = stride;
    const Window w = window_of(x, weight, stride);
    if (!Plan(w).forward) return at::conv2d(x, weight, {}, stride, w.padding);
    // Into a tensor of its own: what is a view cannot be added to in place later.
    Tensor y = at::empty({x.size(0), weight.size(0), w.out_side, w.out_side}, channels_last());
    Tensor flat = pixels(y);
    at::mm_out(flat, unfold(last(x), w), flat_weight(weight).t());
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const std::int64_t stride = ctx->saved_data["stride"].toInt();
    const Window w = window_of(x, weight, stride);
    const Plan plan(w);
    const bool for_input = ctx->needs_input_grad(0), for_weight = ctx->needs_input_grad(1);
    // Where somebody will differentiate these gradients, LibTorch's operators know how.
    const bool plain = at::GradMode::is_enabled();
    const bool product_input = for_input && !plain && plan.input_gradient;
    const bool product_weight = for_weight && !plain && plan.weight_gradient;
    const Tensor dy = last(gradients[0].to(at::kBFloat16));

    Tensor dx, dw;
    if (for_input != product_input || for_weight != product_weight)
      std::tie(dx, dw, std::ignore) = at::convolution_backward(
          dy, x, weight, c10::nullopt, {stride, stride}, {w.padding, w.padding}, {1, 1}, false,
          {0, 0}, 1, {for_input && !product_input, for_weight && !product_weight, false});
    if (product_weight)
      dw = at::mm(pixels(dy).t(), unfold(last(x), w))
               .view({weight.size(0), w.kernel, w.kernel, -1})
               .permute({0, 3, 1, 2});
    if (product_input) dx = fold(at::mm(pixels(dy), flat_weight(weight)), x.size(0), w);
    return {dx, dw, Tensor()};
  }
};

bool fits(const torch::nn::Conv2dImpl& conv, const Tensor& x) {
  static const bool amx = native_bfloat16() == "AMX";
  return amx && own_kernels() && x.is_cpu() && x.dim() == 4 && x.size(2) == x.size(3) &&
         x.numel() > 0 && x.size(1) % static_cast<std::int64_t>(kernels::kChannels) == 0 &&
         conv.weight.size(2) <= kernels::kLargestKernel && autocast_enabled(c10::kCPU) &&
         conv.weight.scalar_type() == at::kFloat;
}

}  // namespace

Tensor convolution(torch::nn::Conv2dImpl& conv, const Tensor& x) {
  const std::int64_t stride = (*conv.options.stride())[0];
  if (!fits(conv, x)) return conv.forward(x);
  if (!Plan(window_of(x, conv.weight, stride)).weight_gradient) return conv.forward(x);
  const auto bfloat16 = [](const Tensor& t) {
    return at::autocast::cached_cast(at::kBFloat16, t, c10::kCPU);
  };
  return MatrixConvolution::apply(bfloat16(x), bfloat16(conv.weight), stride);
}

}  // namespace backstop::host
