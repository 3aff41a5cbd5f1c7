// The report of `backstop data`: whether a dataset is complete and unchanged.
#pragma once

#include <nlohmann/json.hpp>

#include "host/engine/engine.hpp"

namespace backstop::engine {

/// Loads one split after another, describes each and writes the contact sheet. Files that are
/// missing, broken or different from what was published are listed among the report's problems.
/// Throws HostError or Cancelled if nothing can be reported.
nlohmann::json report_on_data(const DataRequest& request);

}  // namespace backstop::engine
