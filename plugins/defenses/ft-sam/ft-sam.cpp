// FT-SAM (Zhu et al., 2023): fine-tuning with adaptive sharpness-aware minimization. The neurons of
// a backdoor have large weights. Each step uses the gradient found after an ascent that moves every
// weight in proportion to its own size, which hits the large ones hardest and shrinks them:
//
//   g = gradient of L at w
//   T = |w| + eta
//   e = rho * T^2 g / |T g|_2            one norm over all weights
//   w <- optimizer step from w with the gradient of L at w + e
//
// L is cross-entropy with label smoothing; w is every trainable weight and bias. In the host's
// terms: the training step returns the loss at w + e, and w is restored, bit for bit, before the
// optimizer updates it.
//
// Both passes normalize with the statistics of the batch. The running means and variances count
// each batch once, at w: those of the second pass are restored as well. The counter
// num_batches_tracked counts both passes, which changes nothing.
//
// Defaults are those of BackdoorBench: rho = 2, eta = 0, label smoothing 0.1, 100 epochs in batches
// of 256, SGD with momentum 0.9 and weight decay 5e-4, a cosine learning rate from 0.01.
//
// Deviations from BackdoorBench:
//
//   * Its label smoothing spreads 0.1 over the K - 1 other classes; LibTorch's spreads it over all
//     K. Its 0.1 is 0.1 * K / (K - 1) here: 0.111 with ten classes.
//   * It draws the same number of clean images from every class; the host draws from all images.
//   * It advances its cosine after every batch instead of every epoch, so that the learning rate
//     swings between 0.01 and 0 over 100 batches. Here it falls once, over the whole training.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/autograd.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"

namespace {

class SharpnessAware final : public backstop::TrainingStep {
 public:
  SharpnessAware(double rho, double eta, double label_smoothing)
      : rho_(rho), eta_(eta), label_smoothing_(label_smoothing) {}

  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    const std::vector<at::Tensor> weights = trainable(model);
    const std::vector<at::Tensor> gradients =
        torch::autograd::grad({plain_loss(model, batch)}, weights);
    keep(model, weights);
    ascend(weights, gradients);
    return plain_loss(model, batch);
  }

  void before_update(backstop::Model&) override {
    const at::NoGradGuard no_gradients;
    for (const auto& [live, copy] : kept_) live.copy_(copy);
    kept_.clear();
  }
  void* query(std::string_view id) noexcept override { return backstop::stateless(id); }

 private:
  static std::vector<at::Tensor> trainable(backstop::Model& model) {
    std::vector<at::Tensor> weights;
    for (const backstop::Layer& layer : model.layers()) {
      for (const at::Tensor& tensor : {layer.weight, layer.bias})
        if (tensor.defined() && tensor.requires_grad()) weights.push_back(tensor);
    }
    return weights;
  }

  [[nodiscard]] at::Tensor plain_loss(backstop::Model& model, const backstop::Batch& batch) const {
    return at::cross_entropy_loss(model.forward(batch.images), batch.labels, {},
                                  at::Reduction::Mean, /*ignore_index=*/-100, label_smoothing_);
  }

  /// Keeps copies of what before_update() restores.
  void keep(backstop::Model& model, const std::vector<at::Tensor>& weights) {
    for (const at::Tensor& weight : weights) kept_.emplace_back(weight, weight.detach().clone());
    for (const backstop::Layer& layer : model.layers()) {
      for (const at::Tensor& tensor : {layer.running_mean, layer.running_var})
        if (tensor.defined()) kept_.emplace_back(tensor, tensor.clone());
    }
  }

  /// w += e
  void ascend(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients) {
    const at::NoGradGuard no_gradients;
    std::vector<at::Tensor> directions, lengths;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const at::Tensor size = weights[i].abs().add_(eta_);
      const at::Tensor scaled = gradients[i].mul(size);
      lengths.push_back(scaled.norm());
      directions.push_back(size.mul_(scaled));
    }
    const at::Tensor factor = at::stack(lengths).norm().add_(1e-12).reciprocal_().mul_(rho_);
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i].add_(directions[i].mul_(factor));
  }

  double rho_;
  double eta_;
  double label_smoothing_;
  std::vector<std::pair<at::Tensor, at::Tensor>> kept_;  ///< live tensor, copy
};

class FtSam final : public backstop::Defense {
 public:
  explicit FtSam(const backstop::Params& params)
      : rho_(params.number("rho")),
        eta_(params.number("eta")),
        label_smoothing_(params.number("label_smoothing")),
        options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    SharpnessAware step(rho_, eta_, label_smoothing_);
    backstop::TrainingOptions options = options_;
    options.step = &step;
    ctx.trainer().fit(model, data.clean(), options);
  }

 private:
  double rho_;
  double eta_;
  double label_smoothing_;
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, FtSam)
