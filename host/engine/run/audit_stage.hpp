// Whether a defended model has lost its backdoor, or only hides it. What each part does, its source
// and where it deviates from it: docs/audit.md.
#pragma once

#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// The first control: a model that never was backdoored.
Stage train_clean_model(const CleanModelInputs& inputs, const StageServices& services);
/// The second one: the backdoored model, fine-tuned on triggered images with their true labels.
Stage purify_exactly(const PurificationInputs& inputs, const StageServices& services);
/// The row: {metrics, counts, path: [{t, attack_success_rate, clean_accuracy, target_loss}], cost};
/// host/report/audit.cpp defines the metrics.
Stage audit(const AuditInputs& inputs, const StageServices& services);

}  // namespace backstop::engine
