#include "host/engine/kernels/convolution_kernels.hpp"

#include "host/engine/compute.hpp"

#if defined(__x86_64__)
#include <unistd.h>

#include <sys/syscall.h>
#endif

namespace backstop::engine::convolution_kernels {

#if defined(__x86_64__)

bool available() {
  // Linux gives a process the tiles' registers on request.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool is = native_bfloat16() == "AMX" && __builtin_cpu_supports("avx512bf16") &&
                         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                         __builtin_cpu_supports("avx512dq") &&
                         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return is;
}

#else

bool available() {
  return false;
}

// Nobody calls these where available() is false.
void forward(const Shape&, const c10::BFloat16*, const float*, c10::BFloat16*, const Fusion&) {}
void input_gradient(const Shape&, const c10::BFloat16*, const float*, c10::BFloat16*) {}
void weight_gradient(const Shape&, const c10::BFloat16*, const c10::BFloat16*, float*,
                     const Affine*) {}

#endif

}  // namespace backstop::engine::convolution_kernels
