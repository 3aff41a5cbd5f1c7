// Silences channels whose weights are far larger than those of their neighbors: a trigger that
// outweighs the rest of an image needs such channels. After Zheng et al. (2022, arXiv:2208.03111),
// who bound each channel's Lipschitz constant; here it is the norm of its weights. Needs no data.
#include <ATen/core/Tensor.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

class OutlierPruning final : public backstop::Defense {
 public:
  explicit OutlierPruning(const backstop::Params&) {}

  void run(backstop::Context&, backstop::Model& model, const backstop::DefenderData&) override {
    for (const backstop::Layer& layer : model.layers()) {
      if (layer.kind == backstop::LayerKind::batch_norm) continue;
      // mask_channels() masks the outputs of a convolution, but the inputs of the head.
      const bool outputs = layer.kind == backstop::LayerKind::convolution;
      const at::Tensor weight = outputs ? layer.weight : layer.weight.t();
      const at::Tensor norms = weight.detach().flatten(1).norm(2, 1);
      model.mask_channels(layer.name, norms.le(norms.median().mul(3)));
    }
  }
};

}  // namespace

BACKSTOP_PLUGIN(Defense, OutlierPruning)
