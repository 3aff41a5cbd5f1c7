// The trigger on test images, and the record of what decided it.
#pragma once

#include <map>
#include <string>

#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// The dataset's test images with the trigger. `threat` states the targets; null: the model knows
/// other classes than the attacker's, and there are none. Throws HostError(plugin) when the attack
/// returns images that do not fit.
TriggeredSet triggered_set(const PluginObject& attack, const DatasetInput& dataset,
                           const Threat* threat, StageContext& ctx);

/// What decided an attack's state and poison, for the metadata of its file: the attack, its version
/// and parameters (paths left out: they differ between machines), target, labels, classes, ratio;
/// the dataset, the fingerprint of its training split, and the selection of images from it.
std::map<std::string, std::string> attack_record(const AttackInputs& inputs);
/// Throws HostError(usage) that lists what `record` says otherwise. A file without a record passes.
void require_same_attack(const std::map<std::string, std::string>& record,
                         const AttackInputs& inputs);
/// The same for the training set, which the positions of poisoned images are meaningless without.
void require_same_training_set(const std::map<std::string, std::string>& record,
                               const AttackInputs& inputs);
/// What cannot be verified because `record` does not have it, as a sentence about the file; empty
/// when there is nothing. `poison`: the file has poisoned images.
std::string unverified(const std::map<std::string, std::string>& record, bool poison);

}  // namespace backstop::engine
