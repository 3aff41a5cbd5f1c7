// What `backstop data` tells of a dataset: is it all there, and is it what it should be?
#pragma once

#include <nlohmann/json.hpp>

#include "host/engine/engine.hpp"

namespace backstop::engine {

/// Loads one split after the other, describes each and writes the contact sheet. What is missing,
/// broken or differs from what its makers published is among the report's problems; throws
/// HostError or Cancelled where nothing can be said.
nlohmann::json report_on_data(const DataRequest& request);

}  // namespace backstop::engine
