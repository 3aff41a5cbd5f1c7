// What this machine can do at most: the measure of everything else.
#pragma once

namespace backstop::benchmarks {

/// The best of several short bursts on `threads` threads at once, each on a core of its own where
/// there are enough.
struct Peak {
  double bfloat16 = 0;  ///< AMX tile products on data in registers, FLOP/s; 0 without AMX
  double float32 =
      0;            ///< multiply-adds in registers, FLOP/s: AVX-512, or what the compiler targets
  double copy = 0;  ///< memory to memory, 256 MiB a thread; bytes read and written a second
};
Peak measure_peak(int threads);

}  // namespace backstop::benchmarks
