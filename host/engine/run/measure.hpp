// The metrics of a model: clean accuracy, attack success rate (both definitions), robust accuracy.
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

/// Over the test set:
///   clean_accuracy           clean images predicted as their label
///   attack_success_rate      triggered images predicted as their target, of those whose label is
///   not
///                            their target
///   attack_success_rate_all  the same, of all triggered images
///   robust_accuracy          triggered images predicted as their true label, of those whose label
///   is
///                            not their target
/// Without targets (the model has learnt other classes than the attacker's), no image is excluded,
/// and success is to lead images to one class, whichever:
///   attack_success_rate,     triggered images predicted as the class that is predicted most often
///   attack_success_rate_all  of them: attack_class
///   attack_class_clean_share clean images predicted as that class
/// Returns {"metrics": {...}, "counts": {"clean", "triggered", "triggered_all"}}, shares in 0 .. 1.
nlohmann::json measure(HostTrainer& trainer, Classifier& model, const ImageStore& clean,
                       const TriggeredSet& triggered);

/// A defense's verdict against the attack's record: `flagged` (int64, positions in the training set
/// of `all` images) against what has Role::poison. Returns {"true_positive_rate",
/// "false_positive_rate", "flagged"}.
nlohmann::json detection(const at::Tensor& flagged, const NamedTensors& poison_record,
                         std::int64_t all);

}  // namespace backstop::engine
