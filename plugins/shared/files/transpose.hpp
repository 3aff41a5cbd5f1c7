// Turns images that were stored column by column into rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace backstop::files {

/// Transposes a square in place, in blocks that fit into cache lines.
template <std::int64_t kSide>
void transpose(std::uint8_t* square) {
  constexpr std::int64_t kBlock = 16;
  static_assert(kSide % kBlock == 0);
  for (std::int64_t top = 0; top < kSide; top += kBlock)
    for (std::int64_t left = 0; left <= top; left += kBlock)
      for (std::int64_t row = top; row < top + kBlock; ++row)
        for (std::int64_t column = left; column < std::min(left + kBlock, row); ++column)
          std::swap(square[row * kSide + column], square[column * kSide + row]);
}

}  // namespace backstop::files
