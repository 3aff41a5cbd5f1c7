// Gradients of strided 1x1 convolutions of few channels, kept from a write past the end of a buffer in LibTorch 1.13.
#include <array>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/native/ConvUtils.h>
#include <torch/library.h>

namespace backstop::engine {

namespace {

using at::Tensor;

/// oneDNN works on blocks of this many channels.
constexpr std::int64_t kBlock = 16;

/// Whether oneDNN 2.7's gradient of the weights (`jit_1x1` and `jit_bf16_1x1` for AVX-512) would write past the end of its scratch
/// memory. It does so with two threads and an odd number of images, for example; all numbers of images are taken away from it.
bool overflows(const Tensor& x, const Tensor& weight, at::IntArrayRef stride,
               at::IntArrayRef padding, bool transposed) {
  return x.dim() == 4 && weight.size(2) == 1 && weight.size(3) == 1 && x.size(1) < kBlock &&
         (stride.front() > 1 || stride.back() > 1) && padding.front() == 0 && padding.back() == 0 &&
         !transposed;
}

/// The pixels that the convolution looks at. x: [N, C, H, W].
Tensor seen(const Tensor& x, at::IntArrayRef stride) {
  return x.slice(2, 0, c10::nullopt, stride.front()).slice(3, 0, c10::nullopt, stride.back());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& weight,
    at::OptionalIntArrayRef bias_sizes, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, std::int64_t groups,
    std::array<bool, 3> wanted) {
  if (!overflows(x, weight, stride, padding, transposed))
    return at::native::convolution_backward(gradient, x, weight, bias_sizes, stride, padding,
                                            dilation, transposed, output_padding, groups, wanted);
  const auto layout = x.suggest_memory_format();
  auto [dx, dw, db] = at::native::convolution_backward(
      gradient, seen(x, stride).contiguous(layout), weight, bias_sizes, {1, 1}, padding, dilation,
      transposed, output_padding, groups, wanted);
  if (dx.defined()) {
    const Tensor all = at::zeros_like(x, layout);
    seen(all, stride).copy_(dx);
    dx = all;
  }
  return {dx, dw, db};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, CPU, library) {
  library.impl("convolution_backward", convolution_backward);
}

}  // namespace backstop::engine
