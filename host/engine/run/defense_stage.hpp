// The stage that defends a copy of the backdoored model.
#pragma once

#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// Gives the defense the model and the data that its manifest asks for, lets it run, and measures
/// what it leaves.
Stage defend(const DefenseInputs& inputs, const StageServices& services);

}  // namespace backstop::engine
