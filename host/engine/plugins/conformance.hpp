// The tests of `backstop plugin check` that run the code of a plugin.
#pragma once

#include "host/engine/engine.hpp"

namespace backstop::engine {

/// Runs one of these tests of a plugin:
///
///   ranges         accepts the limits of every parameter's range, or explains why it cannot
///   deterministic  gives the same result for the same seed, whatever the global random numbers are
///   state          leaves global state unchanged
///   cancellation   stops within 2 s of cancellation
///   images         accepts 1, 7 and 64 images of one and three channels (attack, defense); keeps
///                  the promises of its interface (scheduler, dataset)
///   failures       passes the exceptions of a model on and works afterwards (attack, defense)
///   resume         goes on with the same bits after it was stopped in its trainings (attack, defense)
///
/// Throws HostError if the plugin fails.
ConformanceOutcome check_conformance(const ConformanceRequest& request);

}  // namespace backstop::engine
