// The stage that makes a backdoored model.
#pragma once

#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// The options of a recipe's `[attack.training]`; `scheduler` must outlive them.
TrainingOptions options_from(const recipe::TrainingUse& training, const Scheduler& scheduler);

/// Poisons the training set, trains the model or takes it from a file, and measures it.
Stage train_attack(const AttackInputs& inputs, const StageServices& services);

/// The trigger of a finished stage on the test images of `task`, which may be another dataset than
/// the attack's; see triggered_set().
TriggeredSet trigger_of(const Stage& stage, const AttackInputs& inputs, const DatasetInput& task,
                        bool own_classes, const StageServices& services);

}  // namespace backstop::engine
