// The tests of `backstop plugin check` that run a plugin's code.
#pragma once

#include "host/engine/engine.hpp"

namespace backstop::engine {

/// Runs one of them:
///
///   ranges         is made with every parameter at either end of its range, or says why not
///   deterministic  same seed, same result, whatever the global random numbers are
///   state          leaves the global state alone
///   cancellation   stops within 2 s of cancellation
///   images         takes 1, 7 and 64 images of one and three channels (attack, defense); gives
///                  what its interface promises (scheduler, dataset)
///   failures       passes a model's exceptions on, and works afterwards (attack, defense)
///
/// Throws what the plugin's failures become.
ConformanceOutcome check_conformance(const ConformanceRequest& request);

}  // namespace backstop::engine
