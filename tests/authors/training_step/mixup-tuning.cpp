// Fine-tuning on mixed pairs of clean images (mixup, Zhang et al., 2018, arXiv:1710.09412):
//
//   x = s * x1 + (1 - s) * x2,  loss = s * CE(f(x), y1) + (1 - s) * CE(f(x), y2)
//
// with one s per batch, uniform in [0, 1], which is their Beta(1, 1). One in five clean images is
// held out, to measure the fine-tuned model's accuracy without looking at the test set.
#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"

namespace {

class Mixup final : public backstop::TrainingStep {
 public:
  explicit Mixup(backstop::Context& ctx) : ctx_(ctx) {}

  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    const at::Tensor order = at::randperm(batch.labels.size(0), ctx_.generator());
    const at::Tensor partners = ctx_.to_device(order);
    const double share = at::rand({1}, ctx_.generator()).item<double>();
    const at::Tensor logits = model.forward(
        batch.images.mul(share).add(batch.images.index_select(0, partners), 1 - share));
    return at::cross_entropy_loss(logits, batch.labels)
        .mul(share)
        .add(at::cross_entropy_loss(logits, batch.labels.index_select(0, partners)), 1 - share);
  }
  void* query(std::string_view id) noexcept override { return backstop::stateless(id); }

 private:
  backstop::Context& ctx_;
};

class MixupTuning final : public backstop::Defense {
 public:
  explicit MixupTuning(const backstop::Params& params)
      : options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    const backstop::ImageSet& clean = data.clean();
    const at::Tensor order = at::randperm(clean.size(), ctx.generator());
    const std::int64_t held = clean.size() / 5;
    const auto& rest = ctx.subset(clean, order.narrow(0, held, clean.size() - held));

    Mixup step(ctx);
    backstop::TrainingOptions options = options_;
    options.step = &step;
    ctx.trainer().fit(model, rest, options);
    if (held == 0) return;  // fewer than five images: none is held out
    const auto& held_out = ctx.subset(clean, order.narrow(0, 0, held));
    ctx.metric("held_out_accuracy", ctx.trainer().accuracy(model, held_out));
  }

 private:
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, MixupTuning)
