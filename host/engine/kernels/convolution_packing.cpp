#include "host/engine/kernels/convolution_packing.hpp"

#if defined(__x86_64__)

#include <algorithm>

namespace backstop::engine::convolution_kernels {

ReductionSteps::ReductionSteps(const std::vector<KernelTap>& taps, const FieldGrid& grid,
                               Index channels) {
  constexpr Index kFew = 128;
  for (Index first = 0; first < channels; first += kFew) {
    stretches.push_back(count());
    const Index some = std::min(kFew, channels - first);
    for (std::size_t tap = 0; tap < taps.size();) {
      std::size_t end = tap + 1;
      while (some == channels && end < taps.size() && taps[end].phase == taps[tap].phase &&
             taps[end].distance == taps[end - 1].distance + 1)
        ++end;
      const Index origin = (taps[tap].phase * grid.length + taps[tap].distance) * channels + first;
      const Index length = static_cast<Index>(end - tap) * some;
      for (Index k = 0; k < length; k += kTileDepth) {
        steps.push_back(origin + k);
        for (Index i = k; i < k + kTileDepth; i += kTileRows) {
          if (i >= length)
            halves.push_back({-1, 0});
          else
            halves.push_back(
                {taps[tap + static_cast<std::size_t>(i / some)].place, first + i % some});
        }
      }
      tap = end;
    }
  }
  stretches.push_back(count());
}

BACKSTOP_AMX void pack_forward(const Shape& s, const ReductionSteps& reduction, const float* weight,
                               Index first_out, BFloat16* to) {
  const Index taps = s.kernel * s.kernel;
  for (std::size_t step = 0; step < reduction.halves.size(); step += 2) {
    __m512i rows[kTileRows];
    for (Index o = 0; o < kTileRows; ++o) {
      const auto load = [&](const ReductionSteps::Half& half) BACKSTOP_AMX {
        if (half.tap < 0) return _mm512_setzero_ps();
        return _mm512_loadu_ps(weight + ((first_out + o) * taps + half.tap) * s.in + half.channel);
      };
      rows[o] = reinterpret_cast<__m512i>(
          _mm512_cvtne2ps_pbh(load(reduction.halves[step + 1]), load(reduction.halves[step])));
    }
    transpose(rows);
    for (Index r = 0; r < kTileRows; ++r) _mm512_store_si512(to + r * kTileDepth, rows[r]);
    to += kTileSize;
  }
}

BACKSTOP_AMX void pack_backward(const Shape& s, const ReductionSteps& reduction,
                                const float* weight, Index first_in, BFloat16* to) {
  const Index taps = s.kernel * s.kernel;
  for (const ReductionSteps::Half& half : reduction.halves) {
    for (Index i = 0; i < kTileRows; i += 2, to += kTileDepth) {
      if (half.tap < 0) {
        _mm512_store_si512(to, _mm512_setzero_si512());
        continue;
      }
      const float* at = weight + ((half.channel + i) * taps + half.tap) * s.in + first_in;
      _mm512_store_si512(to, interleave(_mm512_loadu_ps(at), _mm512_loadu_ps(at + taps * s.in)));
    }
  }
}

}  // namespace backstop::engine::convolution_kernels

#endif
