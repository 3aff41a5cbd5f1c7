// The stages that defend a copy of the model, and that judge it.
#pragma once

#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// Gives the defense the model and the data that its manifest asks for, lets it run, and measures
/// what it leaves.
Stage defend(const DefenseInputs& inputs, const StageServices& services);

/// Lets a detector judge the model; see ModelDetector of the SDK. The row has its "verdict".
Stage detect(const DefenseInputs& inputs, const StageServices& services);

}  // namespace backstop::engine
