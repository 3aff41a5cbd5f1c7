// A simple form of fine-pruning (after Liu et al., 2018, arXiv:1805.12185): a backdoor uses
// features that are inactive on clean images. They are silenced, and fine-tuning repairs the model.
#include <cmath>
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

class @Class@ final : public backstop::Defense {
 public:
  explicit @Class@(const backstop::Params& params)
      : share_(params.number("share")), options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    // The mean activation of each of the head's inputs on clean images.
    const at::Tensor activity = ctx.trainer().features(model, data.clean()).abs().mean(0).cpu();
    const auto pruned = std::llround(share_ * static_cast<double>(activity.numel()));
    const at::Tensor keep = at::ones({activity.numel()}, at::kBool);
    keep.index_fill_(0, activity.argsort().narrow(0, 0, pruned), false);
    model.mask_channels(model.layers().back().name, keep);  // also during fine-tuning
    ctx.metric("pruned_features", static_cast<double>(pruned));

    ctx.trainer().fit(model, data.clean(), options_);
  }

 private:
  double share_;
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, @Class@)
