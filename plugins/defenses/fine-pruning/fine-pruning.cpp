// Fine-pruning (Liu, Dolan-Gavitt & Garg, 2018): a backdoor lives in channels that clean images
// hardly activate. Rank the channels of the last convolution by their mean activation on clean
// images, prune them from the least active one on for as long as the clean accuracy holds, then
// fine-tune; pruned channels stay pruned during the fine-tuning.
//
// `layer` says what is pruned. "features": channels of the head's input, which is the last stage's
// feature map averaged over its pixels. BackdoorBench does this, and so, in effect, do the papers
// that cut a channel out of the last convolution, out of the shortcut beside it and out of the
// head. "last-stage": the last convolution's own channels, ranked by the mean of the last stage's
// feature map. A shortcut still adds to a pruned channel, and batch normalization after the
// convolution still gives it a constant.
//
// Defaults: steps of 1 % of the channels, rounded up; an accepted loss of a tenth of the accuracy;
// then 100 epochs of SGD with a cosine learning rate from 0.01 in batches of 256, all as in
// BackdoorBench. The paper accepts a loss of 4 percentage points.
//
// Deviations from BackdoorBench: the accuracy is measured on clean images held out from the
// ranking, not on the test set; the last model within the tolerance is kept, not the one after it;
// a rise in accuracy does not end the pruning.
//
// "features" needs one pass over the images: the effect of pruned inputs on the head is computed
// from the features. "last-stage" classifies the held-out images again in every step.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/tensor.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

using backstop::Layer;
using backstop::LayerKind;

Layer last_layer(backstop::Model& model, LayerKind kind) {
  const auto layers = model.layers();
  for (std::size_t i = layers.size(); i-- > 0;)
    if (Layer layer = layers[i]; layer.kind == kind) return layer;
  throw backstop::ParameterError(
      "the model has no convolution to prune",
      "set `layer` to \"features\", or choose another [model] architecture");
}

/// Sums the last stage's feature map, averaged over its pixels, over the images.
class LastStage final : public backstop::ActivationSink {
 public:
  explicit LastStage(std::string_view name) : name_(name) {}

  at::Tensor activation(std::string_view stage, const at::Tensor& map) override {
    if (stage != name_) return map;
    const at::Tensor sum = map.to(at::kFloat).mean({2, 3}).to(at::kDouble).sum(0);
    sum_ = sum_.defined() ? sum_.add(sum) : sum;
    return map;
  }
  [[nodiscard]] const at::Tensor& sum() const { return sum_; }

 private:
  std::string_view name_;
  at::Tensor sum_;  ///< float64 [channels]
};

at::Tensor mean_of_last_stage(backstop::Context& ctx, backstop::Model& model,
                              const backstop::ImageSet& images, std::int64_t channels) {
  if (model.stages().empty())
    throw backstop::ParameterError(
        "`layer = \"last-stage\"` needs the feature maps of the stages, which this model does not "
        "provide",
        "set `layer` to \"features\", or choose another [model] architecture");
  LastStage sink(model.stages().back());
  model.set_training(false);
  constexpr std::int64_t kBatch = 250;
  for (std::int64_t first = 0; first < images.size(); first += kBatch) {
    ctx.stop_if_cancelled();
    const std::int64_t end = std::min(first + kBatch, images.size());
    model.observe(images.images(at::arange(first, end, at::kLong)), sink);
  }
  if (sink.sum().size(0) != channels)
    throw backstop::ParameterError(
        "the last stage has " + std::to_string(sink.sum().size(0)) +
            " channels, but the last convolution has " + std::to_string(channels),
        "set `layer` to \"features\", or choose another [model] architecture");
  return sink.sum().div(static_cast<double>(images.size()));
}

class FinePruning final : public backstop::Defense {
 public:
  explicit FinePruning(const backstop::Params& params)
      : features_(params.string("layer") == "features"),
        step_(params.number("step")),
        accuracy_drop_(params.number("accuracy_drop")),
        holdout_(params.number("holdout")),
        options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    const backstop::ImageSet& clean = data.clean();
    const at::Tensor order = at::randperm(clean.size(), ctx.generator());
    const auto wanted = std::llround(holdout_ * static_cast<double>(clean.size()));
    // At least one image on either side; if there is only one, it serves as both.
    const std::int64_t held =
        std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(1, clean.size() - 1));
    const std::int64_t rest = std::max<std::int64_t>(1, clean.size() - held);
    const auto& held_out = ctx.subset(clean, order.narrow(0, 0, held));
    const auto& ranking = ctx.subset(clean, order.narrow(0, clean.size() - rest, rest));
    prune(ctx, model, ranking, held_out);
    ctx.trainer().fit(model, clean, options_);
  }

 private:
  /// The accuracy with only these channels (bool [channels]).
  using Accuracy = std::function<double(const at::Tensor& keep)>;

  void prune(backstop::Context& ctx, backstop::Model& model, const backstop::ImageSet& ranking,
             const backstop::ImageSet& held_out) const {
    const at::NoGradGuard no_gradients;
    if (features_) {
      const at::Tensor inputs = ctx.trainer().features(model, held_out);
      const at::Tensor labels = held_out.labels();
      search(ctx, model, last_layer(model, LayerKind::linear),
             ctx.trainer().features(model, ranking).to(at::kDouble).mean(0),
             [&](const at::Tensor& keep) {
               const at::Tensor logits = model.classify(inputs.mul(ctx.to_device(keep)));
               return logits.argmax(1).eq(labels).to(at::kDouble).mean().item<double>();
             });
    } else {
      const Layer& convolution = last_layer(model, LayerKind::convolution);
      backstop::Model& candidate = ctx.clone(model);
      search(ctx, model, convolution,
             mean_of_last_stage(ctx, model, ranking, convolution.weight.size(0)),
             [&](const at::Tensor& keep) {
               candidate.mask_channels(convolution.name, keep);
               return ctx.trainer().accuracy(candidate, held_out);
             });
    }
  }

  void search(backstop::Context& ctx, backstop::Model& model, const Layer& layer,
              const at::Tensor& activation, const Accuracy& accuracy) const {
    const at::Tensor order = activation.cpu().argsort(/*stable=*/true, 0, /*descending=*/false);
    const std::int64_t channels = order.size(0);
    // In floating point, 0.07 * 100 is a little more than 7.
    const auto step = std::max<std::int64_t>(
        1, std::llround(std::ceil(step_ * static_cast<double>(channels) - 1e-9)));
    at::Tensor keep = at::ones({channels}, at::kBool);
    std::vector<double> curve{accuracy(keep)};
    // A loss of exactly accuracy_drop is accepted.
    const double least = (1 - accuracy_drop_) * curve.front() - 1e-9;
    std::int64_t pruned = 0;
    while (pruned + step < channels) {
      ctx.stop_if_cancelled();
      const at::Tensor fewer = keep.index_fill(0, order.narrow(0, pruned, step), 0);
      curve.push_back(accuracy(fewer));
      if (curve.back() < least) break;
      keep = fewer;
      pruned += step;
      ctx.progress(pruned, channels, "channels pruned");
    }
    model.mask_channels(layer.name, keep);
    ctx.metric("channels", static_cast<double>(channels));
    ctx.metric("pruned_channels", static_cast<double>(pruned));
    ctx.metric("holdout_accuracy_before", curve.front());
    ctx.metric("holdout_accuracy_pruned", curve[static_cast<std::size_t>(pruned / step)]);
    ctx.artifact("mean_activation", activation);
    ctx.artifact("holdout_accuracy", at::tensor(curve, at::kDouble));
  }

  bool features_;
  double step_;
  double accuracy_drop_;
  double holdout_;
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, FinePruning)
