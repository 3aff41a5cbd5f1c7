// What the defenses that remove training images have in common.
#pragma once

#include <ATen/core/Tensor.h>

#include "backstop/context.hpp"
#include "backstop/trainer.hpp"

namespace backstop::retraining {

/// Flags the images of `training` marked in `suspicious` (bool [size] on the CPU, in the set's
/// order) as poisoned, then trains `model` from scratch on the others, of which there is at least
/// one.
inline void remove_and_retrain(Context& ctx, Model& model, const ImageSet& training,
                               const at::Tensor& suspicious, const TrainingOptions& options) {
  const at::Tensor flagged = suspicious.nonzero().squeeze(1);
  ctx.flag_poison(training.indices().index_select(0, flagged));
  ctx.metric("flagged_images", static_cast<double>(flagged.numel()));
  const ImageSet& rest = ctx.subset(training, suspicious.logical_not().nonzero().squeeze(1));
  model.reset(Part::whole, ctx.generator());
  ctx.trainer().fit(model, rest, options);
}

}  // namespace backstop::retraining
