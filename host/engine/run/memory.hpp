// Whether a stage can fit into memory, before it takes any.
#pragma once

#include <string>

#include "host/base/memory.hpp"
#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// What a stage is certain to take, in bytes; the true peak is higher.
struct MemoryNeed {
  std::string architecture;
  std::int64_t width = 0;
  double weights = 0;      ///< one copy of them
  double copies = 0;       ///< that exist at the same time
  double activations = 0;  ///< that exist beside them
  double images = 0;
  [[nodiscard]] double bytes() const { return weights * copies + activations + images; }
};

/// Of training the model, or of loading it from its file. What an attack does beyond the training
/// of the recipe is not known, and not counted.
MemoryNeed memory_of(const AttackInputs& inputs);
/// Beyond the backdoored model, which is there. What a defense does is not known: its model, and
/// the copy that is kept of it.
MemoryNeed memory_of(const DefenseInputs& inputs);

/// Throws HostError(environment) with both numbers if the stage cannot fit; returns a warning, or
/// nothing, if it may. Weights on a GPU are not counted.
std::string check_memory(const MemoryNeed& need, const base::AvailableMemory& available);
/// The same with what is available now; logs the warning.
void require_memory(const MemoryNeed& need, StageContext& ctx);

}  // namespace backstop::engine
