// Numbers over several runs: mean, spread and interval, and which runs are left out of them.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "host/report/metrics.hpp"

namespace backstop::report {

struct Spread {
  std::size_t n = 0;
  double mean = 0;                  ///< of n = 0: nothing
  std::optional<double> deviation;  ///< of the sample, by n - 1; from n = 2 on
  /// Half the width of the 95 % interval of the mean, by Student's t with n - 1 degrees of freedom:
  /// t(0.975; n - 1) deviation / sqrt(n). From n = 2 on.
  std::optional<double> margin;
};
Spread spread_of(const std::vector<double>& values);

/// What a row adds to a mean over runs: its number, or the reason why it has none.
struct Contribution {
  enum class Reason { counted, collapsed, failed, no_backdoor, no_value };
  Reason reason = Reason::no_value;
  double value = 0;  ///< of a row that is counted
};
/// `row` is one of `rows`, those of one run. A model that has collapsed is no result, nor is a stage
/// that failed; and where the attack did not take, what the trigger does to a defended model is none.
Contribution contribution_of(const nlohmann::json& rows, const nlohmann::json& row,
                             const Metric& metric);

/// The runs that a mean leaves out.
struct LeftOut {
  std::size_t collapsed = 0, failed = 0, no_backdoor = 0, no_value = 0;
  void add(Contribution::Reason reason);
  /// "1 collapsed, 2 without a value"; empty when there are none.
  [[nodiscard]] std::string text() const;
};

}  // namespace backstop::report
