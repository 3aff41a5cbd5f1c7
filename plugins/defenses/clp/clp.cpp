// Channel Lipschitz pruning (Zheng et al., 2022): a channel that a trigger can drive far has a
// large Lipschitz constant, for which the weights alone give a bound. No image is needed.
//
//   bound of channel k = |gamma_k| / sqrt(var_k + eps) * largest singular value of W_k
//
// W_k is the kernel of channel k, [inputs, height, width], reshaped to a matrix
// [inputs, height * width] as in the paper and its code; gamma and var are those of the batch norm
// that reads the convolution. Channels above mean + u * deviation of their layer (the unbiased
// deviation, as in that code) get a weight and a bias of zero in the batch norm, and so pass
// nothing on. u = 3 is the value in the paper and BackdoorBench.
//
// A batch norm reads a convolution if it directly follows it in the same module (`layer1.0.conv1`
// and `layer1.0.bn1`, `downsample.0` and `downsample.1`) and has the same number of channels. In a
// preact-resnet18 the first batch norm of a block comes before its first convolution, so that the
// pairs are conv1 with bn2; conv2, the shortcuts and the stem feed sums, and are left unchanged.
//
// Deviations: for every batch norm, the code of the paper and BackdoorBench use the convolution
// that was registered last. In a preact-resnet18 this pairs a block's bn1 with a convolution of the
// block before, although it reads that block's sum. Here eps counts as well, which keeps the bound
// of a channel without variance finite; in a TorchScript archive it is taken for 1e-5.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_svdvals.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

/// "layer1.0" for "layer1.0.conv1"; empty for a layer at the top.
std::string_view module_of(std::string_view layer) {
  const auto dot = layer.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : layer.substr(0, dot);
}

bool reads(const backstop::Layer& norm, const backstop::Layer& convolution) {
  return convolution.kind == backstop::LayerKind::convolution &&
         norm.kind == backstop::LayerKind::batch_norm &&
         module_of(norm.name) == module_of(convolution.name) &&
         norm.weight.size(0) == convolution.weight.size(0);
}

/// Bounds of the channels' Lipschitz constants, float64 [channels] on the CPU.
at::Tensor channel_bounds(const backstop::Layer& convolution, const backstop::Layer& norm) {
  const auto exact = [](const at::Tensor& t) { return t.detach().to(at::kCPU, at::kDouble); };
  const at::Tensor largest = at::linalg_svdvals(exact(convolution.weight).flatten(2)).amax(1);
  return largest.mul(exact(norm.weight).abs())
      .div(exact(norm.running_var).add(norm.epsilon).sqrt());
}

class ChannelLipschitzPruning final : public backstop::Defense {
 public:
  explicit ChannelLipschitzPruning(const backstop::Params& params) : u_(params.number("u")) {}

  void run(backstop::Context& ctx, backstop::Model& model, const backstop::DefenderData&) override {
    const at::NoGradGuard no_gradients;
    const backstop::Layers layers = model.layers();
    std::int64_t pairs = 0, channels = 0, pruned = 0;
    for (std::size_t i = 1; i < layers.size(); ++i) {
      ctx.stop_if_cancelled();
      const backstop::Layer convolution = layers[i - 1];
      const backstop::Layer norm = layers[i];
      if (!reads(norm, convolution)) continue;
      const at::Tensor bounds = channel_bounds(convolution, norm);
      const at::Tensor over = bounds.gt(bounds.mean().add(bounds.std(/*unbiased=*/true), u_));
      const at::Tensor pruned_here = ctx.to_device(over);
      at::Tensor(norm.weight).masked_fill_(pruned_here, 0);
      at::Tensor(norm.bias).masked_fill_(pruned_here, 0);

      ctx.artifact("bounds " + std::string(convolution.name), bounds);
      const auto count = over.sum().item<std::int64_t>();
      if (count > 0)
        ctx.log(backstop::LogLevel::info, std::string(convolution.name) + ": " +
                                              std::to_string(count) + " of " +
                                              std::to_string(over.numel()) + " channels pruned");
      ++pairs;
      channels += over.numel();
      pruned += count;
    }
    if (pairs == 0)
      throw backstop::ParameterError(
          "the model has no convolution that is directly followed by its own batch norm",
          "clp needs both: choose another `[model]` architecture or another defense");
    ctx.metric("channels", static_cast<double>(channels));
    ctx.metric("pruned_channels", static_cast<double>(pruned));
  }

 private:
  double u_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, ChannelLipschitzPruning)
