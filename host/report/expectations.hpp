// What a recipe's [expect] says of the results.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// Of one metric of one row: bounds, both inclusive, or the names of classes.
struct Expectation {
  std::string row, metric;
  std::optional<double> minimum = {}, maximum = {};
  std::optional<std::vector<std::string>> classes = {};  ///< exactly these, in any order
};

/// results.json's `expectations`, in the order of `all`: {row, metric, value, minimum, maximum, met}
/// each, or {row, metric, value, classes, met} with lists of names, of a detector. Where the value
/// does not count, the expectation is not met and there is a `reason`:
/// the stage failed, the metric was not measured, there was no image to count, or the metric says
/// nothing because the model has collapsed or the attack did not take. The first row is that of "no
/// defense". What an audit measured stands in `audits`, under the name of the row.
nlohmann::json check_expectations(const nlohmann::json& rows, const std::vector<Expectation>& all,
                                  const nlohmann::json& detectors = nlohmann::json::array(),
                                  const nlohmann::json& audits = nlohmann::json::array());

}  // namespace backstop::report
