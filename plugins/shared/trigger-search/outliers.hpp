// How far a number lies below the others, in terms of the median absolute deviation.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace backstop::trigger_search {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

struct Spread {
  double median = 0;
  double deviation = 0;

  /// Positive below the median, negative above it.
  [[nodiscard]] double index(double value) const {
    return deviation > 0 ? (median - value) / deviation : 0;
  }
};

/// For normally distributed values, 1.4826 times the median absolute deviation is the standard
/// deviation. If most values nearly agree it is small and makes outliers of the others, so it
/// counts as at least `smallest`.
inline Spread spread_of(const std::vector<double>& values, double smallest) {
  Spread spread{.median = median(values)};
  std::vector<double> distances;
  for (const double value : values) distances.push_back(std::abs(value - spread.median));
  spread.deviation = std::max(1.4826 * median(std::move(distances)), smallest);
  return spread;
}

}  // namespace backstop::trigger_search
