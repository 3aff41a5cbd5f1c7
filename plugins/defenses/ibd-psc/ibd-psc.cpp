// IBD-PSC: when weights of batch normalization are amplified, the model keeps its confidence in a
// triggered image, while it loses that in a clean one. Model f_k has the weights and biases of its
// last k batch normalizations multiplied by `scale`. With k0 the smallest k for which f_k is wrong on
// more than `error_rate` of the defender's clean images, and c = argmax f(x), the parameter-oriented
// scaling consistency of an image x is
//
//   PSC(x) = (1 / n) sum over k = k0+1 .. k0+n of softmax(f_k(x))_c
//
// After Hou et al. (ICML 2024), with the settings of the authors' program in BackdoorBox
// (github.com/THUYimingLi/BackdoorBox, core/defenses/IBD_PSC.py): scale 1.5, n = 5, error rate 0.6,
// T = 0.9. The sum begins at k0+1, as in the program. Deviations, where a network has too few layers
// (the program has no result there): the sum ends at the last batch normalization, and where no f_k
// reaches the error rate it takes the n largest k, with a warning. The program scores only images
// that the model classifies as they are labeled; here the host scores all of them.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/plugin.hpp"

namespace {

class IbdPsc final : public backstop::Defense, public backstop::InputDetector {
 public:
  explicit IbdPsc(const backstop::Params& params)
      : models_wanted_(params.integer("models")),
        scale_(params.number("scale")),
        error_rate_(params.number("error_rate")),
        threshold_(params.number("threshold")) {}

  void run(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    throw backstop::Error("ibd-psc only detects, and repairs no model", "name it in [[detector]]");
  }

  void* query(std::string_view interface_id) noexcept override {
    return interface_id == backstop::InputDetector::kId
               ? static_cast<backstop::InputDetector*>(this)
               : nullptr;
  }

  double prepare(backstop::Context& ctx, backstop::Model& model,
                 const backstop::DefenderData& data) override {
    const std::int64_t layers = batch_norms(model);
    if (layers == 0)
      throw backstop::Error("ibd-psc amplifies batch normalization, and the model has none",
                            "choose another detector");
    const std::int64_t start = first_wrong(ctx, model, data.clean(), layers);
    ctx.metric("first_amplified", static_cast<double>(start));
    models_.clear();
    for (std::int64_t k = start + 1; k <= std::min(layers, start + models_wanted_); ++k) {
      backstop::Model& amplified = ctx.clone(model);
      amplified.set_training(false);
      for (std::int64_t last = 1; last <= k; ++last) amplify(amplified, last);
      models_.push_back(&amplified);
    }
    return threshold_;
  }

  at::Tensor scores(backstop::Context& ctx, backstop::Model& model,
                    const at::Tensor& images) override {
    const at::Tensor predicted = model.forward(images).argmax(1, /*keepdim=*/true);
    at::Tensor sum = at::zeros({images.size(0)});
    for (backstop::Model* amplified : models_) {
      ctx.stop_if_cancelled();
      sum.add_(amplified->forward(images).softmax(1).gather(1, predicted).squeeze(1).to(at::kCPU));
    }
    return sum.div(static_cast<double>(models_.size()));
  }

 private:
  static std::int64_t batch_norms(backstop::Model& model) {
    const auto layers = model.layers();
    return std::count_if(layers.begin(), layers.end(), [](const backstop::Layer& layer) {
      return layer.kind == backstop::LayerKind::batch_norm;
    });
  }

  /// Multiplies the batch normalization that is number `last` from the end, which counts from 1.
  void amplify(backstop::Model& model, std::int64_t last) const {
    const at::NoGradGuard no_gradients;
    const auto layers = model.layers();
    for (std::size_t i = layers.size(); i-- > 0;) {
      const backstop::Layer layer = layers[i];
      if (layer.kind != backstop::LayerKind::batch_norm || --last > 0) continue;
      layer.weight.detach().mul_(scale_);
      layer.bias.detach().mul_(scale_);
      return;
    }
  }

  /// k0, at most so large that a sum of `models_wanted_` models, if there are that many, follows it.
  std::int64_t first_wrong(backstop::Context& ctx, const backstop::Model& model,
                           const backstop::ImageSet& clean, std::int64_t layers) const {
    backstop::Model& amplified = ctx.clone(model);
    for (std::int64_t k = 1; k < layers; ++k) {
      ctx.stop_if_cancelled();
      amplify(amplified, k);
      if (1 - ctx.trainer().accuracy(amplified, clean) > error_rate_) return k;
    }
    ctx.log(backstop::LogLevel::warning,
            "no number of amplified layers makes the model wrong on more than `error_rate` of the "
            "clean images; the largest numbers are taken");
    return std::max<std::int64_t>(0, layers - models_wanted_);
  }

  std::int64_t models_wanted_;
  double scale_, error_rate_, threshold_;
  std::vector<backstop::Model*> models_;  ///< the context's
};

}  // namespace

BACKSTOP_PLUGIN(Defense, IbdPsc)
