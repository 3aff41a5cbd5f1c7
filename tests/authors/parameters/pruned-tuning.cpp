// Silences channels whose weights stand out, as outlier-pruning does, and fine-tunes what is left.
#include <cstddef>
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

class PrunedTuning final : public backstop::Defense {
 public:
  explicit PrunedTuning(const backstop::Params& params)
      : factor_(params.number("factor")), options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    const auto layers = model.layers();
    std::int64_t silenced = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      ctx.stop_if_cancelled();
      silenced += prune(model, layers[i]);
      ctx.progress(std::int64_t(i) + 1, std::int64_t(layers.size()), "layers");
    }
    ctx.log(backstop::LogLevel::info, std::to_string(silenced) + " channels silenced");
    ctx.metric("silenced_channels", double(silenced));  // goes into results.json
    ctx.trainer().fit(model, data.clean(), options_);
  }

 private:
  /// Returns how many channels of the layer were silenced.
  std::int64_t prune(backstop::Model& model, const backstop::Layer& layer) const {
    if (layer.kind == backstop::LayerKind::batch_norm) return 0;
    const bool outputs = layer.kind == backstop::LayerKind::convolution;
    const at::Tensor weight = outputs ? layer.weight : layer.weight.t();
    const at::Tensor norms = weight.detach().flatten(1).norm(2, 1);
    const at::Tensor keep = norms.le(norms.median().mul(factor_));
    model.mask_channels(layer.name, keep);
    return keep.logical_not().sum().item<std::int64_t>();
  }

  double factor_;
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, PrunedTuning)
