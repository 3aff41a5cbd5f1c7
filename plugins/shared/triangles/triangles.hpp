// The shape of super-fine-tuning's learning rate, for the scheduler and for the defense that chooses
// its peak.
#pragma once

#include <cstdint>

namespace backstop::triangles {

/// The height in 0 .. 1 of a row of triangles at `iteration` (from 0): each rises from 0 for `up`
/// iterations and falls for `down`. Both are at least 1.
[[nodiscard]] inline double height(std::int64_t iteration, std::int64_t up, std::int64_t down) {
  const std::int64_t period = up + down;
  const std::int64_t c = iteration % period;
  return c < up ? static_cast<double>(c) / static_cast<double>(up)
                : static_cast<double>(period - c) / static_cast<double>(down);
}

}  // namespace backstop::triangles
