#include "host/report/statistics.hpp"

#include <cmath>
#include <numeric>
#include <string_view>

#include <boost/math/distributions/students_t.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/report/verdict.hpp"

namespace backstop::report {

Spread spread_of(const std::vector<double>& values) {
  Spread spread;
  spread.n = values.size();
  if (values.empty()) return spread;
  const auto n = static_cast<double>(values.size());
  spread.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (values.size() == 1) return spread;
  const double squares =
      std::accumulate(values.begin(), values.end(), 0.0, [&](double sum, double value) {
        return sum + (value - spread.mean) * (value - spread.mean);
      });
  spread.deviation = std::sqrt(squares / (n - 1));
  const boost::math::students_t distribution(n - 1);
  spread.margin = boost::math::quantile(distribution, 0.975) * *spread.deviation / std::sqrt(n);
  return spread;
}

Contribution contribution_of(const nlohmann::json& rows, const nlohmann::json& row,
                             const Metric& metric) {
  using Reason = Contribution::Reason;
  if (has_collapsed(row)) return {Reason::collapsed};
  if (has_failed(row)) return {Reason::failed};
  if (metric.of_backdoor && &row != &rows[0] && !objection_to_attack(rows).empty())
    return {Reason::no_backdoor};
  const auto value = value_of(row, metric);
  return value ? Contribution{Reason::counted, *value} : Contribution{};
}

void LeftOut::add(Contribution::Reason reason) {
  switch (reason) {
    case Contribution::Reason::counted:
      break;
    case Contribution::Reason::collapsed:
      ++collapsed;
      break;
    case Contribution::Reason::failed:
      ++failed;
      break;
    case Contribution::Reason::no_backdoor:
      ++no_backdoor;
      break;
    case Contribution::Reason::no_value:
      ++no_value;
      break;
  }
}

std::string LeftOut::text() const {
  std::string text;
  const auto say = [&text](std::size_t runs, std::string_view what) {
    if (runs > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", runs, what);
  };
  say(collapsed, "collapsed");
  say(failed, "failed");
  say(no_backdoor, "without a backdoor");
  say(no_value, "without a value");
  return text;
}

}  // namespace backstop::report
