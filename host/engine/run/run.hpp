// One recipe, from its dataset to its results: load, attack, defend, measure.
#pragma once

#include "host/engine/engine.hpp"

namespace backstop::engine {

/// Runs the request's recipe and returns the run's results.json. Throws HostError or Cancelled; the
/// run's folder stands in `outcome` as soon as it exists.
nlohmann::json run_recipe(const RunRequest& request, RunOutcome& outcome);

}  // namespace backstop::engine
