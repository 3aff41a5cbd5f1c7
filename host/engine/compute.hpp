// Where and how a run computes: device, precision and threads, resolved from `[compute]`.
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
  bool bfloat16 = false;  ///< convolutions and matrix products; weights and statistics stay float32
  int threads = 1;
  bool own_kernels = true;  ///< use_own_kernels() as it was
};

/// Resolves "auto": CUDA where LibTorch has it and a GPU is there; bfloat16 where the processor
/// (AMX or AVX-512 BF16) or the GPU computes it natively and `width` is at least
/// kSmallestFastWidth; all cores this process may use. Sets the number of threads and
/// use_own_kernels(). Throws HostError(environment) for a device that is not there.
Compute resolve_compute(const recipe::ComputeUse& compute, std::int64_t width);

/// Below this width oneDNN computes bfloat16 with reference kernels that are slower than float32.
inline constexpr std::int64_t kSmallestFastWidth = 16;
/// Whether a GPU computes bfloat16 natively (compute capability 8.0); false for what is none.
bool gpu_has_bfloat16(c10::Device device);
/// The instructions with which this processor computes bfloat16 natively: "AMX", "AVX-512"; empty
/// where it has none, or where the variable ONEDNN_MAX_CPU_ISA tells oneDNN not to use them.
std::string_view native_bfloat16();
std::string processor_name();
int available_cores();

/// Processor, cores, memory, GPU, LibTorch and its BLAS: for run.json.
nlohmann::json describe_hardware(const Compute& compute);

/// Whether this project's kernels compute what they can, and CUDA graphs hold steps, or LibTorch
/// all; one setting for the process, true at first.
bool own_kernels();
void use_own_kernels(bool use);

/// Settings of the process that make training faster and change no result; once, before any tensor.
void tune_process();

}  // namespace backstop::engine
