// Measures a model: clean accuracy, attack success rate (both definitions), robust accuracy, and
// what tells a collapsed model from a working one.
#pragma once

#include <nlohmann/json.hpp>

#include "host/engine/data/image_store.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/train/trainer.hpp"

namespace backstop::engine {

/// The test set with the trigger on every image.
struct TriggeredSet {
  ImageStore images;   ///< labels: the true ones
  at::Tensor targets;  ///< int64 [n]: the labels that the attacker wants; undefined: any class
};

/// Over the test set, {"metrics": {...}, "counts": {...}}. Metrics, shares in 0 .. 1, null where
/// there is no image to count:
///
///   clean_accuracy                 clean images classified as their label
///   attack_success_rate            triggered images classified as their target, of those whose
///                                  label is not their target
///   attack_success_rate_all        the same, of all triggered images
///   robust_accuracy                triggered images classified as their true label, of those whose
///                                  label is not their target
///   clean_target_rate              what attack_success_rate is without the trigger
///   largest_predicted_class_share  clean images in the class that is predicted most often
///
/// Without targets (the model has learned other classes than the attacker's), no image is excluded,
/// and success is to lead images to one class, whichever it is. Instead of clean_target_rate:
///
///   attack_class                   the class that is predicted most often for triggered images:
///                                  attack_success_rate and attack_success_rate_all are its share
///   attack_class_clean_share       clean images classified as that class
///
/// Without triggered images (nobody knows the trigger), there is nothing about them.
///
/// Counts, of images:
///
///   clean, triggered, triggered_all  what clean_accuracy, attack_success_rate and
///                                    attack_success_rate_all are shares of
///   largest_predicted_class          clean images that truly belong to that class
///   not_finite                       clean and triggered images with a logit that is not finite;
///                                    if there is any, all metrics are null
nlohmann::json measure(HostTrainer& trainer, Classifier& model, const ImageStore& clean,
                       const TriggeredSet* triggered);

/// Marks what was measured of a model that has `numbers` weights (or statistics of batch
/// normalization) that are not finite: the count "not_finite_weights", and all metrics are null.
/// Changes nothing if there are none.
void mark_weights(nlohmann::json& measured, std::int64_t numbers);

/// The positions in `set` of the images whose ImageSet::indices are `indices` (int64 [k], on the CPU);
/// -1 where there is none.
at::Tensor positions_in(const ImageStore& set, const at::Tensor& indices);

/// A defense's verdict against the attack's record: `flagged` (int64, positions in the training set
/// of `all` images) against the images with Role::poison. Returns {"true_positive_rate",
/// "false_positive_rate", "flagged"}; a rate is null where there is no image to flag.
nlohmann::json detection(const at::Tensor& flagged, const NamedTensors& poison_record,
                         std::int64_t all);
/// The same for its scores (float64 [k]) of the images at `positions` (int64 [k]). Returns
/// {"auroc", "tpr_at_1_fpr", "tpr_at_5_fpr"}; see report::separation. Throws Error for a position
/// that is not in the training set or stands twice.
nlohmann::json detection_by_score(const at::Tensor& positions, const at::Tensor& scores,
                                  const NamedTensors& poison_record, std::int64_t all);

}  // namespace backstop::engine
