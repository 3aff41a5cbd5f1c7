// What a recipe's [expect] says of the results.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace backstop::report {

/// Bounds of one metric of one row, both inclusive.
struct Bounds {
  std::string row, metric;
  std::optional<double> minimum, maximum;
};

/// results.json's `expectations`, in the order of `all`: {row, metric, value, minimum, maximum,
/// met} each. Where the value does not count, the expectation is not met and there is a `reason`:
/// the stage failed, the metric was not measured, there was no image to count, or the metric says
/// nothing because the model has collapsed or the attack did not take. The first row is that of "no
/// defense".
nlohmann::json check_expectations(const nlohmann::json& rows, const std::vector<Bounds>& all);

}  // namespace backstop::report
