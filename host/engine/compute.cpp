#include "host/engine/compute.hpp"

#include <atomic>
#include <cstdlib>
#include <fstream>

#include <malloc.h>
#include <unistd.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "host/base/cores.hpp"
#include "host/base/error.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/train/cuda.hpp"

namespace backstop::engine {

std::string_view native_bfloat16() {
#if defined(__x86_64__)
  const char* const given = std::getenv("ONEDNN_MAX_CPU_ISA");
  const std::string_view most = given == nullptr ? "ALL" : given;
  const bool amx = most == "ALL" || most == "DEFAULT" || most == "AVX512_CORE_AMX";
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (amx && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1u << 22)) != 0) return "AMX";
  if ((amx || most == "AVX512_CORE_BF16") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 &&
      (a & (1u << 5)) != 0)
    return "AVX-512";
#endif
  return {};
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

namespace {

c10::Device resolve_device(const std::string& text) {
  const int gpus = number_of_gpus();
  if (text == "auto") return gpus > 0 ? c10::Device(c10::kCUDA, 0) : c10::Device(c10::kCPU);
  if (text == "cpu") return c10::kCPU;
  const auto index = text == "cuda" ? 0 : std::stoi(text.substr(5));
  if (gpus == 0)
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("there is no CUDA device for compute.device = \"{}\"", text),
        "this LibTorch was built without CUDA or sees no GPU; use device = \"cpu\" or \"auto\"");
  if (index >= gpus)
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("there is no GPU {} for compute.device = \"{}\"", index, text),
        gpus == 1 ? "the only GPU is number 0"
                  : fmt::format("the GPUs are numbered 0 to {}", gpus - 1));
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace

Compute resolve_compute(const recipe::ComputeUse& compute, std::int64_t width) {
  Compute result;
  result.device = resolve_device(compute.device);
  result.bfloat16 =
      compute.precision == "bfloat16" ||
      (compute.precision == "auto" && width >= kSmallestFastWidth &&
       (result.device.is_cuda() ? gpu_has_bfloat16(result.device) : !native_bfloat16().empty()));
  result.threads =
      compute.threads > 0 ? static_cast<int>(compute.threads) : base::available_cores();
  at::set_num_threads(result.threads);
  result.own_kernels = compute.own_kernels;
  use_own_kernels(result.own_kernels);
  if (result.device.is_cuda()) {
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setAllowTF32CuDNN(false);  // float32 means float32
  }
  return result;
}

nlohmann::json describe_hardware(const Compute& compute) {
  const auto pages = sysconf(_SC_PHYS_PAGES);
  return {{"processor", processor_name()},
          {"cores", base::available_cores()},
          {"memory_bytes", static_cast<std::int64_t>(pages) * sysconf(_SC_PAGESIZE)},
          {"device", compute.device.str()},
          {"cuda", at::hasCUDA()},
          {"libtorch", libtorch_version()},
          {"libtorch_configuration", at::show_config()}};
}

namespace {
std::atomic<bool> uses_own_kernels{true};
}

bool own_kernels() {
  return uses_own_kernels;
}

void use_own_kernels(bool use) {
  uses_own_kernels = use;
}

void tune_process() {
#if defined(__GLIBC__)
  // Freed activations stay mapped. Otherwise glibc returns every block of 32 MiB or more to the
  // system, and each step pays for its pages again.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace backstop::engine
