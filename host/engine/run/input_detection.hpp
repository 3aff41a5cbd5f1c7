// Lets a detector score the test images with and without the trigger, and measures how well it tells
// them apart.
#pragma once

#include <nlohmann/json.hpp>

#include "backstop/input_detector.hpp"
#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// The row's "inputs":
///
///   auroc, tpr_at_1_fpr, tpr_at_5_fpr   of clean against triggered images; thresholds of the last
///                                       two on the scores of the clean test images
///   auroc_successful                    the same with those triggered images that the model
///                                       classifies as their target
///   threshold                           the detector's own
///   true_positive_rate, false_positive_rate   at the detector's own threshold
///   clean, triggered, successful        numbers of images
///   roc: {x, y}                         false and true positive rates
///
/// Triggered images are those whose label is not their target and which the trigger changes. Numbers
/// are null where there are none of them.
nlohmann::json score_inputs(const PluginObject& plugin, StageContext& ctx, Classifier& model,
                            const DefenderData& data, const DefenseInputs& inputs);

/// What the detector returns for `images`, as double [n] on the CPU. Throws Error unless they are
/// finite numbers, one for each.
at::Tensor checked_scores(InputDetector& detector, Context& ctx, Model& model,
                          const at::Tensor& images);
/// Scores `images` again in two halves. Throws Error when they differ from `scores`: a detector that
/// looks at the other images of a batch sees which of them are triggered.
void require_independent_scores(InputDetector& detector, Context& ctx, Model& model,
                                const at::Tensor& images, const at::Tensor& scores);

}  // namespace backstop::engine
