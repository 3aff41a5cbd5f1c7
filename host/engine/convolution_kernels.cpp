#include "host/engine/convolution_kernels.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "host/engine/vectors.hpp"

namespace backstop::host::convolution_kernels {

namespace {

using namespace vectors;
using c10::BFloat16;

static_assert(kChannels == kLanes);
constexpr std::size_t kMostParts = kLargestKernel * kLargestKernel;

/// Where a pixel's copies lie.
struct Parts {
  std::array<const BFloat16*, kMostParts> at;
  std::size_t count = 0;
};

BACKSTOP_INLINE void add(const Parts& parts, std::size_t channels, BFloat16* to) {
  for (std::size_t c = 0; c < channels; c += kLanes) {
    Floats sum = {};
    for (std::size_t i = 0; i < parts.count; ++i) {
      Floats part;
      load(parts.at[i] + c, part);
      sum += part;
    }
    store(sum, to + c);
  }
}

BACKSTOP_AVX512 void add_512(const Parts& parts, std::size_t channels, BFloat16* to) {
  add(parts, channels, to);
}

Parts copies(const BFloat16* unfolded, const Window& w, std::int64_t y, std::int64_t x) {
  const auto channels = static_cast<std::int64_t>(w.channels);
  Parts parts;
  for (std::int64_t ky = 0; ky < w.kernel; ++ky) {
    const std::int64_t row = y + w.padding - ky;
    if (row < 0 || row % w.stride != 0 || row / w.stride >= w.out_side) continue;
    for (std::int64_t kx = 0; kx < w.kernel; ++kx) {
      const std::int64_t column = x + w.padding - kx;
      if (column < 0 || column % w.stride != 0 || column / w.stride >= w.out_side) continue;
      const std::int64_t pixel = row / w.stride * w.out_side + column / w.stride;
      parts.at[parts.count++] = unfolded + ((pixel * w.kernel + ky) * w.kernel + kx) * channels;
    }
  }
  return parts;
}

void zero(BFloat16* to, std::int64_t count) {
  std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(count) * sizeof(BFloat16));
}

}  // namespace

void unfold(const BFloat16* image, const Window& w, BFloat16* to) {
  const auto channels = static_cast<std::int64_t>(w.channels);
  for (std::int64_t y = 0; y < w.out_side; ++y) {
    for (std::int64_t x = 0; x < w.out_side; ++x) {
      // One row of the kernel lies in one piece: `inside` pixels from `first`, zeros around them.
      const std::int64_t left = x * w.stride - w.padding;
      const std::int64_t first = std::max<std::int64_t>(left, 0);
      const std::int64_t inside = std::min(left + w.kernel, w.side) - first;
      const std::int64_t before = first - left, after = w.kernel - before - inside;
      for (std::int64_t ky = 0; ky < w.kernel; ++ky, to += w.kernel * channels) {
        const std::int64_t row = y * w.stride - w.padding + ky;
        if (row < 0 || row >= w.side) {
          zero(to, w.kernel * channels);
          continue;
        }
        if (before > 0) zero(to, before * channels);
        std::memcpy(static_cast<void*>(to + before * channels),
                    image + (row * w.side + first) * channels,
                    static_cast<std::size_t>(inside * channels) * sizeof(BFloat16));
        if (after > 0) zero(to + (before + inside) * channels, after * channels);
      }
    }
  }
}

void fold(const BFloat16* unfolded, const Window& w, BFloat16* image) {
  const bool wide = has_avx512();
  for (std::int64_t y = 0; y < w.side; ++y) {
    for (std::int64_t x = 0; x < w.side; ++x, image += w.channels) {
      const Parts parts = copies(unfolded, w, y, x);
      if (wide) {
        add_512(parts, w.channels, image);
      } else {
        add(parts, w.channels, image);
      }
    }
  }
}

}  // namespace backstop::host::convolution_kernels
