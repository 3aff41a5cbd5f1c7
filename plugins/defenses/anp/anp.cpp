// Adversarial neuron pruning (Wu and Wang, 2021): the neurons that carry a backdoor are those that
// a small perturbation of the weights activates. A neuron is a channel of a batch norm layer with
// weight w and bias b; clean images teach masks m in [0, 1]
//
//   min over m of  alpha * L(m w, b) + (1 - alpha) * max over |d|, |e| <= epsilon of
//                                                     L((m + d) w, (1 + e) b)
//
// and the neurons with the smallest masks are pruned: their w becomes 0.
//
// Defaults are those of the authors' code: 2000 batches of 128 augmented images, drawn with
// replacement; epsilon 0.4 in one step along the sign of the gradient from a random start, drawn
// again for every batch; alpha 0.2; SGD with learning rate 0.2 and momentum 0.9, with the masks
// clamped after every step. BackdoorBench uses the same, but a learning rate of 0.01. Batch norm
// uses the statistics of the batch meanwhile, as there. All of this happens on a copy of the model.
//
// The threshold: masks <= 0, 0.05, 0.1, ... 0.9 (as in BackdoorBench) are pruned for as long as the
// accuracy on held-out clean images stays above 1 - accuracy_drop times that of the unpruned model.
//
// Deviations: the peers choose the threshold by the accuracy on the test set, and BackdoorBench
// even by the attack success rate; a defender has neither, so a fifth of the clean images is held
// out to choose it. Steps that leave the range of epsilon are clamped to it, as in the paper's
// formula; the authors' code lets them go up to 2 * epsilon.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/zeros_like.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"
#include "neurons.hpp"

namespace {

using backstop::anp::Neurons;

/// What the masks are learned in.
struct MaskSteps final : backstop::TrainingState {
  MaskSteps(at::Tensor m, at::Tensor v) : masks(std::move(m)), velocity(std::move(v)) {}
  void save(backstop::StateWriter& state) const override {
    state.tensor("masks", masks);
    state.tensor("velocity", velocity);
  }
  void load(const backstop::StateReader& state) override {
    const at::NoGradGuard no_gradients;
    masks.copy_(state.tensor("masks"));
    velocity.copy_(state.tensor("velocity"));
  }
  at::Tensor masks, velocity;  ///< float [neurons]
};

class AdversarialNeuronPruning final : public backstop::Defense {
 public:
  explicit AdversarialNeuronPruning(const backstop::Params& params)
      : iterations_(params.integer("iterations")),
        batch_size_(params.integer("batch_size")),
        steps_(params.integer("steps")),
        epsilon_(params.number("epsilon")),
        alpha_(params.number("alpha")),
        rate_(params.number("rate")),
        momentum_(params.number("momentum")),
        threshold_step_(params.number("threshold_step")),
        threshold_maximum_(params.number("threshold_maximum")),
        accuracy_drop_(params.number("accuracy_drop")),
        holdout_(params.number("holdout")) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    Neurons neurons(model);
    const backstop::ImageSet& clean = data.clean();
    const at::Tensor order = at::randperm(clean.size(), ctx.generator());
    const auto wanted = std::llround(holdout_ * static_cast<double>(clean.size()));
    const std::int64_t held = std::clamp<std::int64_t>(wanted, 1, clean.size());
    // If there is only one image, it serves as both.
    const std::int64_t learning = std::max<std::int64_t>(clean.size() - held, 1);
    const backstop::ImageSet& held_out = ctx.subset(clean, order.narrow(0, 0, held));

    backstop::Model& copy = ctx.clone(model);
    const at::Tensor masks =
        learn_masks(ctx, copy, clean, order.narrow(0, clean.size() - learning, learning));
    for (const auto& [name, mask] : neurons.by_layer(masks))
      ctx.artifact("mask " + std::string(name), mask);
    prune(ctx, model, copy, masks, held_out);
  }

 private:
  /// Float [neurons] in [0, 1].
  at::Tensor learn_masks(backstop::Context& ctx, backstop::Model& model,
                         const backstop::ImageSet& clean, const at::Tensor& positions) {
    model.set_trainable(backstop::Part::whole);
    model.set_training(true);
    Neurons neurons(model);
    const at::NoGradGuard no_gradients;
    const at::Tensor ones = ctx.to_device(at::ones({neurons.count()}));
    MaskSteps state(ones.clone(), at::zeros_like(ones));
    const at::Tensor &masks = state.masks, &velocity = state.velocity;
    backstop::KeptLoop loop(ctx, state);
    for (std::int64_t i = loop.done(); i < iterations_; ++i) {
      ctx.stop_if_cancelled();
      const at::Tensor batch = positions.index_select(
          0, at::randint(positions.numel(), {batch_size_}, ctx.generator(), at::kLong));
      const at::Tensor images = ctx.trainer().augment(clean.images(batch));
      const at::Tensor labels = clean.labels().index_select(0, ctx.to_device(batch));

      const auto draw = [&] {
        return ctx.to_device(
            at::empty({neurons.count()}).uniform_(-epsilon_, epsilon_, ctx.generator()));
      };
      const at::Tensor d = draw(), e = draw();
      const double step = epsilon_ / static_cast<double>(steps_);
      for (std::int64_t s = 0; s < steps_ && epsilon_ > 0; ++s) {
        ctx.stop_if_cancelled();
        const auto ascent = neurons.gradients(images, labels, masks.add(d), e.add(1));
        d.add_(ascent.weight_factors.sign(), step).clamp_(-epsilon_, epsilon_);
        e.add_(ascent.bias_factors.sign(), step).clamp_(-epsilon_, epsilon_);
      }
      const at::Tensor perturbed =
          neurons.gradients(images, labels, masks.add(d), e.add(1)).weight_factors;
      const at::Tensor unperturbed = neurons.gradients(images, labels, masks, ones).weight_factors;
      velocity.mul_(momentum_).add_(unperturbed, alpha_).add_(perturbed, 1 - alpha_);
      masks.sub_(velocity, rate_).clamp_(0, 1);
      loop.advance(i + 1, i + 1 == iterations_);
      ctx.progress(i + 1, iterations_, "mask steps");
    }
    return masks;
  }

  void prune(backstop::Context& ctx, backstop::Model& model, backstop::Model& trial,
             const at::Tensor& masks, const backstop::ImageSet& held_out) const {
    trial.copy_from(model);
    trial.set_training(false);
    Neurons trial_neurons(trial);
    const at::Tensor ones = at::ones_like(masks);
    const double before = ctx.trainer().accuracy(trial, held_out);
    double accuracy = before, threshold = -1;
    const std::int64_t last = std::llround(std::floor(threshold_maximum_ / threshold_step_ + 1e-9));
    for (std::int64_t i = 0; i <= last; ++i) {
      const double next = static_cast<double>(i) * threshold_step_;
      trial_neurons.scale(masks.gt(next), ones);
      const double next_accuracy = ctx.trainer().accuracy(trial, held_out);
      if (next_accuracy < (1 - accuracy_drop_) * before) break;
      accuracy = next_accuracy;
      threshold = next;
    }
    const at::Tensor kept = masks.gt(threshold);
    Neurons(model).scale(kept, ones);

    const std::int64_t pruned = masks.numel() - kept.sum().item<std::int64_t>();
    ctx.metric("neurons", static_cast<double>(masks.numel()));
    ctx.metric("pruned_neurons", static_cast<double>(pruned));
    ctx.metric("holdout_accuracy", accuracy);
    if (threshold < 0) {
      ctx.log(backstop::LogLevel::warning,
              "nothing is pruned: no threshold keeps the accuracy on the held-out images");
      return;
    }
    ctx.metric("pruning_threshold", threshold);
    ctx.log(backstop::LogLevel::info,
            (std::ostringstream() << "pruned " << pruned << " of " << masks.numel()
                                  << " neurons (masks up to " << threshold
                                  << "); accuracy on held-out images: " << before << " before, "
                                  << accuracy << " after")
                .str());
  }

  std::int64_t iterations_, batch_size_, steps_;
  double epsilon_, alpha_, rate_, momentum_;
  double threshold_step_, threshold_maximum_, accuracy_drop_, holdout_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, AdversarialNeuronPruning)
