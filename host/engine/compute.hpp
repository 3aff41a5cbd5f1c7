// Where and how a run computes: device, precision and threads, as resolved from `[compute]`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <c10/core/Device.h>
#include <nlohmann/json.hpp>

#include "host/recipe/recipe.hpp"

namespace backstop::engine {

struct Compute {
  c10::Device device = c10::kCPU;
  bool bfloat16 =
      false;  ///< in convolutions and matrix products; weights and statistics stay float32
  int threads = 1;
  bool own_kernels = true;  ///< what use_own_kernels() was called with
};

/// Resolves "auto": CUDA if LibTorch supports it and there is a GPU; bfloat16 if the processor (AMX
/// or AVX-512 BF16) or the GPU computes it natively and `width` is at least kSmallestFastWidth; all
/// cores that this process may use. Sets the number of threads and calls use_own_kernels(). Throws
/// HostError(environment) if the device does not exist.
Compute resolve_compute(const recipe::ComputeUse& compute, std::int64_t width);

/// For narrower models oneDNN uses reference kernels for bfloat16 that are slower than float32.
inline constexpr std::int64_t kSmallestFastWidth = 16;
/// The instructions with which this processor computes bfloat16 natively, "AMX" or "AVX-512"; empty
/// if it has none or if the variable ONEDNN_MAX_CPU_ISA tells oneDNN not to use them.
std::string_view native_bfloat16();
std::string processor_name();

/// Processor, cores, memory, GPU, LibTorch and its BLAS, for run.json.
nlohmann::json describe_hardware(const Compute& compute);

/// Whether this project's own kernels and CUDA graphs are used where they can be, or only LibTorch.
/// One setting for the process, initially true.
bool own_kernels();
void use_own_kernels(bool use);

/// Changes settings of the process that make training faster without changing any result. Call it
/// once, before the first tensor is made.
void tune_process();

}  // namespace backstop::engine
