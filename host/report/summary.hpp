// Several runs of one recipe together: means and spreads over the runs of a [matrix].
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

struct FinishedRun {
  std::string group;       ///< runs of a group differ only in their seed; may be empty
  nlohmann::json results;  ///< results.json's content
};

/// For each group and row name, in the order in which they first appear: mean, sample standard
/// deviation and number of runs of each metric of the summary. What is left out is counted: "0.900 ±
/// 0.141 (2 of 5 seeds; 1 collapsed, 1 failed, 1 without a value)". A run that ended before a row
/// that other runs of its group have is without its values, and one whose attack did not take is
/// without a backdoor for the attack success of its defenses.
std::string summary_table(const std::vector<FinishedRun>& runs, bool color);

}  // namespace backstop::report
