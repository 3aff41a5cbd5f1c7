// Vectors of sixteen numbers, from the vector extensions of GCC and clang. A function that uses
// only these can be compiled twice from the same lines: for AVX-512 (BACKSTOP_AVX512), and for what
// the compiler targets by default.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <c10/util/BFloat16.h>

#define BACKSTOP_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define BACKSTOP_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#else
#define BACKSTOP_AVX512
#endif

namespace backstop::engine::vectors {

constexpr std::size_t kLanes = 16;

using Floats = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));
using Halves = std::uint16_t __attribute__((vector_size(32)));

BACKSTOP_INLINE void load(const float* from, Floats& to) {
  std::memcpy(&to, from, sizeof to);
}

BACKSTOP_INLINE void load(const c10::BFloat16* from, Floats& to) {
  Halves upper;
  std::memcpy(&upper, from, sizeof upper);
  to = reinterpret_cast<Floats>(__builtin_convertvector(upper, Words) << 16);
}

BACKSTOP_INLINE void store(const Floats& from, float* to) {
  std::memcpy(to, &from, sizeof from);
}

/// Rounds to the nearest, ties to even.
BACKSTOP_INLINE void store(const Floats& from, c10::BFloat16* to) {
  const Words bits = reinterpret_cast<Words>(from);
  Words upper = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const Words nan = reinterpret_cast<Words>(from != from);
  upper = (nan & 0x7fc0U) | (~nan & upper);
  const Halves halves = __builtin_convertvector(upper, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

inline bool has_avx512() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has;
#else
  return false;
#endif
}

}  // namespace backstop::engine::vectors
