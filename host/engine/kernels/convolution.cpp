#include "host/engine/kernels/convolution.hpp"

#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "host/engine/compute.hpp"
#include "host/engine/kernels/batch_norm_relu.hpp"
#include "host/engine/kernels/convolution_kernels.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

namespace kernels = convolution_kernels;
using at::BFloat16;
using at::Tensor;

Tensor last(const Tensor& x) {
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

Tensor empty_last(at::IntArrayRef sizes, at::ScalarType type) {
  return at::empty(sizes, at::TensorOptions(type).memory_format(at::MemoryFormat::ChannelsLast));
}

kernels::Shape shape_of(const Tensor& x, const Tensor& weight, std::int64_t stride) {
  return {x.size(0), x.size(1), weight.size(0), x.size(2), weight.size(2), stride};
}

/// The output. x and `add` (which may be undefined) are bfloat16; `fusion` has everything but
/// `add`.
Tensor product(const Tensor& x, const Tensor& weight, std::int64_t stride, kernels::Fusion fusion,
               const Tensor& add) {
  const auto shape = shape_of(x, weight, stride);
  const Tensor from = last(x), filters = last(weight), added = add.defined() ? last(add) : add;
  if (added.defined()) fusion.add = added.data_ptr<BFloat16>();
  Tensor y =
      empty_last({shape.images, shape.out, shape.out_side(), shape.out_side()}, at::kBFloat16);
  kernels::forward(shape, from.data_ptr<BFloat16>(), filters.data_ptr<float>(),
                   y.data_ptr<BFloat16>(), fusion);
  return y;
}

/// The normalization and ReLU before a convolution; undefined if there is none.
struct Before {
  Tensor weight, bias;
  Statistics statistics;

  explicit operator bool() const { return weight.defined(); }
  [[nodiscard]] kernels::Affine affine() const {
    const NormAffine norm(statistics.values, weight, bias);
    return {norm.scale, norm.offset};
  }
};

class AmxConvolution : public torch::autograd::Function<AmxConvolution> {
 public:
  /// x and `add` (which may be missing) are bfloat16. The weight is float32 and rounded to bfloat16
  /// before it is multiplied. The last four are the parts of a Before, or are missing.
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                        const Tensor& weight, std::int64_t stride, const c10::optional<Tensor>& add,
                        const c10::optional<Tensor>& norm_weight,
                        const c10::optional<Tensor>& norm_bias,
                        const c10::optional<Tensor>& statistics, bool of_batch) {
    const Before before{norm_weight.value_or(Tensor()),
                        norm_bias.value_or(Tensor()),
                        {statistics.value_or(Tensor()), of_batch}};
    ctx->save_for_backward({x, weight, before.weight, before.bias, before.statistics.values});
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["adds"] = add.has_value();
    ctx->saved_data["of_batch"] = of_batch;
    kernels::Fusion fusion;
    kernels::Affine affine;
    if (before) {
      affine = before.affine();
      fusion.before = &affine;
    }
    return product(x, weight, stride, fusion, add.value_or(Tensor()));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const Before before{saved[2], saved[3], {saved[4], ctx->saved_data["of_batch"].toBool()}};
    const std::int64_t stride = ctx->saved_data["stride"].toInt();
    const auto shape = shape_of(x, weight, stride);
    // Missing inputs are not counted.
    const bool adds = ctx->saved_data["adds"].toBool(), for_weight = ctx->needs_input_grad(1);
    const std::size_t norm = adds ? 3 : 2;
    const bool for_norm =
        before && (ctx->needs_input_grad(norm) || ctx->needs_input_grad(norm + 1));
    const bool for_input = ctx->needs_input_grad(0) || for_norm;
    const Tensor for_added = adds && ctx->needs_input_grad(2) ? gradients[0] : Tensor();
    const Tensor dy = last(gradients[0].to(at::kBFloat16));
    Tensor dx, dw;
    if (at::GradMode::is_enabled()) {
      // These gradients will be differentiated again, which LibTorch's operators can do.
      const std::int64_t padding = shape.padding();
      const Tensor in =
          before ? batch_norm_relu(x, before.weight, before.bias, before.statistics) : x;
      std::tie(dx, dw, std::ignore) = at::convolution_backward(
          dy, in, weight.to(at::kBFloat16), c10::nullopt, {stride, stride}, {padding, padding},
          {1, 1}, false, {0, 0}, 1, {for_input, for_weight, false});
    } else {
      if (for_input) {
        dx = empty_last(x.sizes(), at::kBFloat16);
        const Tensor filters = last(weight);
        kernels::input_gradient(shape, dy.data_ptr<BFloat16>(), filters.data_ptr<float>(),
                                dx.data_ptr<BFloat16>());
      }
      if (for_weight) {
        dw = empty_last(weight.sizes(), at::kFloat);
        const Tensor from = last(x);
        const kernels::Affine affine = before ? before.affine() : kernels::Affine{};
        kernels::weight_gradient(shape, from.data_ptr<BFloat16>(), dy.data_ptr<BFloat16>(),
                                 dw.data_ptr<float>(), before ? &affine : nullptr);
      }
    }
    NormGradients through{dx, {}, {}};
    if (before && for_input)
      through = batch_norm_relu_backward(x, before.weight, before.bias, before.statistics, dx,
                                         ctx->needs_input_grad(0));
    return {through.input,  dw,           Tensor(), for_added,
            through.weight, through.bias, Tensor(), Tensor()};
  }
};

bool fits(const torch::nn::Conv2dImpl& conv, const Tensor& x) {
  return own_kernels() && kernels::available() && autocast_enabled(c10::kCPU) && x.is_cpu() &&
         x.dim() == 4 && x.size(2) == x.size(3) && x.numel() > 0 &&
         x.size(1) % kernels::kChannels == 0 && conv.weight.size(0) % kernels::kChannels == 0 &&
         conv.weight.scalar_type() == at::kFloat;
}

kernels::Affine affine_of(torch::nn::BatchNorm2dImpl& norm, const Tensor& x) {
  return Before{norm.weight, norm.bias, statistics_of(norm, x)}.affine();
}

Tensor bfloat16(const Tensor& t) {
  return at::autocast::cached_cast(at::kBFloat16, t, c10::kCPU);
}

}  // namespace

bool can_infer(const torch::nn::Conv2dImpl& conv, const torch::nn::BatchNorm2dImpl& norm,
               const Tensor& x) {
  return !at::GradMode::is_enabled() && !norm.is_training() && fits(conv, x) &&
         norm.weight.scalar_type() == at::kFloat;
}

Tensor infer(torch::nn::Conv2dImpl& conv, const Tensor& x, const Neighbors& neighbors) {
  kernels::Affine before, after;
  kernels::Fusion fusion;
  if (neighbors.before != nullptr) {
    before = affine_of(*neighbors.before, x);
    fusion.before = &before;
  }
  if (neighbors.after != nullptr) {
    after = affine_of(*neighbors.after, x);
    fusion.after = &after;
  }
  fusion.relu = neighbors.relu;
  const Tensor& add = neighbors.add;
  return product(x.to(at::kBFloat16), conv.weight, (*conv.options.stride())[0], fusion,
                 add.defined() ? add.to(at::kBFloat16) : add);
}

Tensor convolution(torch::nn::Conv2dImpl& conv, const Tensor& x, const Tensor& add) {
  if (!fits(conv, x)) return add.defined() ? conv.forward(x).add_(add) : conv.forward(x);
  return AmxConvolution::apply(bfloat16(x), conv.weight, (*conv.options.stride())[0],
                               add.defined() ? c10::make_optional(bfloat16(add)) : c10::nullopt,
                               c10::optional<Tensor>(), c10::optional<Tensor>(),
                               c10::optional<Tensor>(), false);
}

Tensor normalized_convolution(torch::nn::BatchNorm2dImpl& norm, torch::nn::Conv2dImpl& conv,
                              const Tensor& x, const Tensor& add) {
  if (!fits(conv, x) || !can_normalize(norm, x) || x.scalar_type() != at::kBFloat16)
    return convolution(conv, batch_norm_relu(norm, x), add);
  const Statistics statistics = statistics_of(norm, x);
  return AmxConvolution::apply(x, conv.weight, (*conv.options.stride())[0],
                               add.defined() ? c10::make_optional(bfloat16(add)) : c10::nullopt,
                               c10::make_optional(norm.weight), c10::make_optional(norm.bias),
                               c10::make_optional(statistics.values), statistics.of_batch);
}

}  // namespace backstop::engine
