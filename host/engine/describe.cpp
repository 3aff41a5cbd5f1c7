// Describes the loaded LibTorch and what it computes with, for `backstop doctor`.
#include <string_view>
#include <system_error>

#include <dlfcn.h>

#include <ATen/Version.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include "host/base/cores.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/engine.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

/// The text behind `key` in LibTorch's description of itself, up to a comma or the end of the line.
std::string value_of(std::string_view key, const std::string& text) {
  const std::size_t at = text.find(key);
  if (at == std::string::npos) return {};
  const std::size_t begin = at + key.size();
  return text.substr(begin, text.find_first_of(",\n", begin) - begin);
}

/// The file that an address was mapped from. Links are followed, because Debian's alternatives are
/// links.
std::filesystem::path file_of(const void* address) {
  Dl_info info{};
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  const auto real = std::filesystem::canonical(info.dli_fname, error);
  return error ? std::filesystem::path(info.dli_fname) : real;
}

/// Describes the BLAS that the dynamic linker resolved for LibTorch. The one that LibTorch was
/// built with may have been replaced by the system's alternatives.
void describe_blas(EngineDescription& description) {
  const void* sgemm = dlsym(RTLD_DEFAULT, "sgemm_");
  const auto file = file_of(sgemm);
  if (file != description.file) description.blas_file = file;
  description.reference_blas =
      file.filename().string().starts_with("libblas.so") && file.parent_path().filename() == "blas";
  // OpenBLAS may be loaded all the same, for LAPACK.
  if (description.reference_blas) {
    description.blas = "netlib reference BLAS";
  } else if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_get_config")) {
    description.blas = reinterpret_cast<const char* (*)()>(symbol)();
  } else if (at::hasMKL()) {
    description.blas = at::get_mkl_version();
  }
}

void describe_cuda(EngineDescription& description) {
  description.cuda = c10::impl::hasDeviceGuardImpl(c10::kCUDA);
  if (description.cuda)
    description.cuda_devices = c10::impl::VirtualGuardImpl(c10::kCUDA).deviceCount();
}

void describe(EngineDescription& description) {
  const std::string configuration = at::show_config();
  description.built_for = libtorch_version();
  description.running = value_of("TORCH_VERSION=", configuration);
  description.capability = value_of("CPU capability usage: ", configuration);
  description.file = file_of(reinterpret_cast<const void*>(&at::show_config));
  describe_blas(description);
  description.openmp_file = file_of(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  description.processor = processor_name();
  description.threads = base::available_cores();
  describe_cuda(description);
  const bool gpu = description.cuda_devices > 0;
  description.device = gpu ? "cuda:0" : "cpu";
  description.bfloat16 = gpu ? "the GPU" : std::string(native_bfloat16());
  description.bfloat16_width = kSmallestFastWidth;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void backstop_engine_describe(
    EngineDescription& description) {
  try {
    describe(description);
  } catch (const std::exception& e) {
    description.error = e.what();
  } catch (...) {
    description.error = "an exception of unknown type";
  }
}

}  // namespace backstop::engine
