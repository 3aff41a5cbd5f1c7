// The peak performance of this machine, which everything else is compared with.
#pragma once

namespace backstop::benchmarks {

/// The best of several short bursts on `threads` threads at once, each on its own core if there are
/// enough.
struct Peak {
  /// FLOP/s of AMX tile products on data in registers; 0 without AMX.
  double bfloat16 = 0;
  /// FLOP/s of multiply-adds in registers, with AVX-512 or what the compiler targets.
  double float32 = 0;
  /// Bytes read and written per second from memory to memory, 256 MiB per thread.
  double copy = 0;
};
Peak measure_peak(int threads);

}  // namespace backstop::benchmarks
