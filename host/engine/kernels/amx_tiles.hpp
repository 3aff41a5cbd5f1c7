// Products of AMX tiles, and the AVX-512 code that loads, rearranges and stores what they work on.
// A product multiplies 16 rows of 32 bfloat16 by 32 rows of 16 and sums in float32. x86-64 only.
#pragma once

#if defined(__x86_64__)

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include <immintrin.h>

#include <c10/util/BFloat16.h>

#include "host/engine/kernels/tile_configuration.hpp"

#define BACKSTOP_AMX \
  __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

namespace backstop::engine::convolution_kernels {

using c10::BFloat16;
using Index = std::int64_t;

inline constexpr Index kTileRows = 16;   ///< rows of a tile, and its columns of float32
inline constexpr Index kTileDepth = 32;  ///< bfloat16 numbers in a row of a tile
inline constexpr Index kTileSize = kTileRows * kTileDepth;
inline constexpr Index kTilesTogether = 4;  ///< left tiles that are multiplied by each right tile
inline constexpr Index kBlockRows = kTilesTogether * kTileRows;

inline Index round_up(Index n, Index to) {
  return (n + to - 1) / to * to;
}

/// Memory that begins at a cache line.
template <typename T>
struct AlignedBuffer {
  struct Free {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  explicit AlignedBuffer(Index count)
      : data(static_cast<T*>(
            ::operator new (static_cast<std::size_t>(count) * sizeof(T), std::align_val_t{64}))),
        size(count) {}
  void clear() {
    std::memset(static_cast<void*>(data.get()), 0, static_cast<std::size_t>(size) * sizeof(T));
  }
  [[nodiscard]] T* get() const { return data.get(); }
  std::unique_ptr<T, Free> data;
  Index size;
};

/// Configures the tile registers of this thread while it lives.
class TileScope {
 public:
  BACKSTOP_AMX TileScope() {
    static constexpr TileConfiguration configuration;
    _tile_loadconfig(&configuration);
  }
  BACKSTOP_AMX ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

inline BACKSTOP_AMX __m512 widen(const BFloat16* from) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/// The sums of four tiles, 64 rows of 16 numbers, that are to be stored as rows of an image
/// [pixels, channels]. They are stored a few at a time, while other tiles are multiplied.
struct OutputRows {
  const float* sums = nullptr;
  const std::int32_t* targets = nullptr;  ///< the pixel of each row; -1: the row is dropped
  BFloat16* to = nullptr;
  Index channels = 0;
  const float *scale = nullptr, *offset = nullptr;  ///< 16 each, or null
  const BFloat16* add = nullptr;                    ///< laid out as `to`, or null
  bool relu = false;
  Index next = kBlockRows;  ///< the first row that is not stored yet

  BACKSTOP_AMX void write(Index count) {
    const Index end = std::min(next + count, kBlockRows);
    for (; next < end; ++next) {
      if (targets[next] < 0) continue;
      __m512 row = _mm512_load_ps(sums + next * kTileRows);
      const Index at = targets[next] * channels;
      if (scale != nullptr)
        row = _mm512_fmadd_ps(row, _mm512_loadu_ps(scale), _mm512_loadu_ps(offset));
      if (add != nullptr) row = _mm512_add_ps(row, widen(add + at));
      // If one operand is not a number, the result is the second one.
      if (relu) row = _mm512_max_ps(_mm512_setzero_ps(), row);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at),
                          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(row)));
    }
  }
};

/// sums[j] (+)= sum over k of (the tile at left + 16 * j rows + steps[k]) * right[k], for four j
/// and `count` steps. `pitch` is the distance between rows on the left, in numbers. `rows` are
/// stored meanwhile.
inline BACKSTOP_AMX void multiply_pixels(const BFloat16* left, Index pitch, const Index* steps,
                                         Index count, const BFloat16* right, float* sums, bool add,
                                         OutputRows& given) {
  OutputRows rows = given;  // in registers
  const BFloat16 *a = left, *b = a + kTileRows * pitch, *c = b + kTileRows * pitch,
                 *d = c + kTileRows * pitch;
  const Index bytes = pitch * Index{sizeof(BFloat16)};
  const Index share = kBlockRows / count + 1;
  if (add) {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + kTileRows * kTileRows, 64);
    _tile_loadd(2, sums + 2 * kTileRows * kTileRows, 64);
    _tile_loadd(3, sums + 3 * kTileRows * kTileRows, 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (Index k = 0; k < count; ++k) {
    const Index step = steps[k];
    _tile_loadd(7, right, 64);
    _tile_loadd(4, a + step, bytes);
    _tile_dpbf16ps(0, 4, 7);
    _tile_loadd(5, b + step, bytes);
    _tile_dpbf16ps(1, 5, 7);
    _tile_loadd(6, c + step, bytes);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(4, d + step, bytes);
    _tile_dpbf16ps(3, 4, 7);
    right += kTileSize;
    rows.write(share);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kTileRows * kTileRows, 64);
  _tile_stored(2, sums + 2 * kTileRows * kTileRows, 64);
  _tile_stored(3, sums + 3 * kTileRows * kTileRows, 64);
  given = rows;
}

/// sums[j] += sum over k < steps of (the tile at left + 32 * k) * (tile k of right[j]), for four j.
inline BACKSTOP_AMX void multiply_weights(const BFloat16* left, Index pitch,
                                          const BFloat16* const right[kTilesTogether], Index steps,
                                          float* const sums[kTilesTogether]) {
  const BFloat16 *a = right[0], *b = right[1], *c = right[2], *d = right[3];
  const Index bytes = pitch * Index{sizeof(BFloat16)};
  _tile_loadd(0, sums[0], 64);
  _tile_loadd(1, sums[1], 64);
  _tile_loadd(2, sums[2], 64);
  _tile_loadd(3, sums[3], 64);
  for (Index k = 0; k < steps; ++k) {
    _tile_loadd(7, left + k * kTileDepth, bytes);
    _tile_loadd(4, a + k * kTileSize, 64);
    _tile_dpbf16ps(0, 7, 4);
    _tile_loadd(5, b + k * kTileSize, 64);
    _tile_dpbf16ps(1, 7, 5);
    _tile_loadd(6, c + k * kTileSize, 64);
    _tile_dpbf16ps(2, 7, 6);
    _tile_loadd(4, d + k * kTileSize, 64);
    _tile_dpbf16ps(3, 7, 4);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
}

/// Transposes 16 by 16 words of 32 bits.
inline BACKSTOP_AMX void transpose(__m512i rows[kTileRows]) {
  __m512i t[kTileRows];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

/// [a0, b0, a1, b1, ...] of 16 numbers each.
inline BACKSTOP_AMX __m512i interleave(__m256i a, __m256i b) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

inline BACKSTOP_AMX __m512i interleave(const BFloat16* a, const BFloat16* b) {
  return interleave(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)),
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
}

inline BACKSTOP_AMX __m512i interleave(__m512 a, __m512 b) {
  return interleave(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)),
                    reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(b)));
}

}  // namespace backstop::engine::convolution_kernels

#endif
