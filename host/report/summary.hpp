// What several runs of one recipe say together: means and spreads over the runs of a [matrix].
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

struct FinishedRun {
  std::string group;       ///< runs of one group differ in their seed alone; may be empty
  nlohmann::json results;  ///< results.json's content
};

/// For each group and row name, in the order in which they first appear: mean, sample standard
/// deviation and number of runs of clean accuracy and attack success.
std::string summary_table(const std::vector<FinishedRun>& runs, bool color);

}  // namespace backstop::report
