// One recipe, from its dataset to its results: load, attack, defend, measure.
#pragma once

#include "host/engine/engine.hpp"

namespace backstop::engine {

/// Runs a resolved recipe and returns the run's results.json. Throws HostError or Cancelled;
/// appends the run's folder to `outcome` as soon as it exists.
nlohmann::json run_recipe(const recipe::Recipe& recipe, const RunRequest& request,
                          RunOutcome& outcome);

}  // namespace backstop::engine
