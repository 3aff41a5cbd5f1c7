#include "host/engine/kernels/convolution_field.hpp"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

#include <ATen/Parallel.h>

namespace backstop::engine::convolution_kernels {

namespace {

/// max(0, x * scale + offset) of some pixels, in place.
BACKSTOP_AMX void activate_pixels(BFloat16* at, Index pixels, const Affine& affine) {
  const auto channels = static_cast<Index>(affine.scale.size());
  for (Index x = 0; x < pixels; ++x) {
    for (Index c = 0; c < channels; c += kTileRows, at += kTileRows) {
      const __m512 value = activate(widen(at), _mm512_loadu_ps(affine.scale.data() + c),
                                    _mm512_loadu_ps(affine.offset.data() + c));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
    }
  }
}

Index floor_divide(Index a, Index b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

}  // namespace

void fill_field(BFloat16* field, const FieldGrid& grid, Index stride, Index phases,
                const BFloat16* images, Index count, Index from, Index all, Index channels,
                const Affine* before) {
  for (Index phase = 0; phase < phases; ++phase) {
    const Index top = phase / stride, left = phase % stride;
    BFloat16* const origin = field + (phase * grid.length + grid.lead) * channels;
    const Index pixels = (from - left + stride - 1) / stride;
    for (Index n = 0; n < count; ++n) {
      for (Index y = top; y < from; y += stride) {
        const BFloat16* source = images + ((n * from + y) * from + left) * all;
        BFloat16* to = origin + (n * grid.image + y / stride * grid.row) * channels;
        const bool together = stride == 1 && channels == all;
        const Index pieces = together ? 1 : pixels,
                    of_piece = together ? pixels * channels : channels;
        for (Index x = 0; x < pieces; ++x)
          std::memcpy(to + x * channels, source + x * stride * all,
                      static_cast<std::size_t>(of_piece) * sizeof(BFloat16));
        if (before != nullptr) activate_pixels(to, pixels, *before);
      }
    }
  }
}

std::vector<KernelTap> forward_taps(const Shape& s, const FieldGrid& grid) {
  std::vector<KernelTap> taps;
  for (Index ky = 0; ky < s.kernel; ++ky) {
    for (Index first = 0; first < std::min(s.stride, s.kernel); ++first) {
      for (Index kx = first; kx < s.kernel; kx += s.stride) {  // neighbors in their phase
        const Index y = floor_divide(ky - s.padding(), s.stride),
                    x = floor_divide(kx - s.padding(), s.stride);
        const Index top = ky - s.padding() - y * s.stride, left = kx - s.padding() - x * s.stride;
        taps.push_back({top * s.stride + left, y * grid.row + x, ky * s.kernel + kx});
      }
    }
  }
  return taps;
}

std::vector<KernelTap> backward_taps(const Shape& s, const FieldGrid& grid, Index top, Index left) {
  std::vector<KernelTap> taps;
  for (Index ky = 0; ky < s.kernel; ++ky) {
    if ((top - ky + s.padding()) % s.stride != 0) continue;
    for (Index kx = s.kernel - 1; kx >= 0; --kx) {  // neighbors from left to right
      if ((left - kx + s.padding()) % s.stride != 0) continue;
      taps.push_back(
          {0, (top - ky + s.padding()) / s.stride * grid.row + (left - kx + s.padding()) / s.stride,
           ky * s.kernel + kx});
    }
  }
  return taps;
}

Index images_at_once(const Shape& s, Index margin, Index bytes_of_a_position, Index bytes,
                     Index at_most) {
  const FieldGrid one(s.out_side(), margin, 1);
  const Index most = std::clamp<Index>(bytes / (one.image * bytes_of_a_position), 1, at_most);
  const auto filled = [&](Index n) {
    return static_cast<double>(n * s.out_side() * s.out_side()) /
           static_cast<double>(one.positions(n));
  };
  Index best = most;
  for (Index n = most; n > most / 2; --n) {
    if (filled(n) > filled(best)) best = n;
  }
  return best;
}

Index images_at_once(const Shape& s, Index margin, Index bytes_of_a_position, Index weight_bytes) {
  constexpr Index kCache = 2 << 20;
  return images_at_once(s, margin, bytes_of_a_position,
                        weight_bytes < kCache / 2 ? kCache / 10 : kCache / 3,
                        std::max<Index>(1, s.images / (2 * at::get_num_threads())));
}

Index phases_of(const Shape& s) {
  return s.kernel == 1 ? 1 : s.stride * s.stride;
}

Index margin_of(const Shape& s) {
  return (s.padding() + s.stride - 1) / s.stride;
}

}  // namespace backstop::engine::convolution_kernels

#endif
