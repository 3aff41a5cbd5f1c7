#include "tests/benchmarks/peak.hpp"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "host/engine/kernels/convolution_kernels.hpp"
#include "host/engine/kernels/tile_configuration.hpp"
#include "host/engine/kernels/vectors.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace backstop::benchmarks {

namespace {

using engine::vectors::Floats;

#if defined(__x86_64__)

/// Multiplies with four accumulators, two left and two right tiles. Returns the number of FLOPs.
__attribute__((target("amx-tile,amx-bf16"))) double multiply_tiles(int rounds) {
  static constexpr engine::TileConfiguration
      configuration;  // GCC takes only its first bytes for used
  _tile_loadconfig(&configuration);
  alignas(64) static const std::uint16_t ones[16 * 32] = {};
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  for (int i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * rounds * 16 * 16 * 32 * 2;
}

#else

double multiply_tiles(int) {
  return 0;
}

#endif

BACKSTOP_INLINE double add_products(int rounds) {
  constexpr int kChains = 12;  // enough to hide the latency of one
  Floats sum[kChains] = {}, a = {}, b = {};
#pragma GCC unroll 12
  for (int k = 0; k < kChains; ++k) sum[k] += static_cast<float>(k);  // all different
  a += 0.5F;
  b += 1e-3F;
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 12  // otherwise the sums live in memory
    for (int k = 0; k < kChains; ++k) sum[k] = sum[k] * a + b;
  }
  Floats all = {};
#pragma GCC unroll 12
  for (int k = 0; k < kChains; ++k) all += sum[k];
  volatile float keep = all[0];
  (void)keep;
  return static_cast<double>(kChains) * rounds * 16 * 2;
}

BACKSTOP_AVX512 double add_products_512(int rounds) {
  return add_products(rounds);
}

/// The highest sum of the rates of all threads; `work` returns how much it did.
double best_rate(int threads, const std::function<double()>& work) {
  using Clock = std::chrono::steady_clock;
  constexpr int kBursts = 40;
  double best = 0;
  std::vector<double> done(static_cast<std::size_t>(threads));
  std::barrier together(threads);
  std::vector<std::thread> others;
  const auto bursts = [&](std::size_t self) {
    for (int i = 0; i < kBursts; ++i) {
      together.arrive_and_wait();
      const auto start = Clock::now();
      done[self] = work();
      together.arrive_and_wait();
      const std::chrono::duration<double> seconds = Clock::now() - start;
      if (self != 0) continue;
      double sum = 0;
      for (const double each : done) sum += each;
      best = std::max(best, sum / seconds.count());
    }
  };
  for (int i = 1; i < threads; ++i) others.emplace_back(bursts, static_cast<std::size_t>(i));
  bursts(0);
  for (std::thread& other : others) other.join();
  return best;
}

}  // namespace

Peak measure_peak(int threads) {
  Peak peak;
  if (engine::convolution_kernels::available())
    peak.bfloat16 = best_rate(threads, [] { return multiply_tiles(50'000); });
  const bool wide = engine::vectors::has_avx512();
  peak.float32 =
      best_rate(threads, [&] { return wide ? add_products_512(500'000) : add_products(500'000); });
  constexpr std::size_t kBytes = std::size_t{128} << 20;
  thread_local std::vector<char> from, to;
  peak.copy = best_rate(threads, [&] {
    from.resize(kBytes, 1);
    to.resize(kBytes);
    std::memcpy(to.data(), from.data(), kBytes);
    return 2.0 * static_cast<double>(kBytes);
  });
  return peak;
}

}  // namespace backstop::benchmarks
