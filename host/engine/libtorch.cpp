#include "host/engine/libtorch.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>
#include <torch/version.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace backstop::host {

namespace {

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)

bool autocast_enabled(c10::DeviceType device) {
  return at::autocast::is_autocast_enabled(device);
}

void set_autocast(c10::DeviceType device, bool enabled) {
  at::autocast::set_autocast_dtype(device, at::kBFloat16);
  at::autocast::set_autocast_enabled(device, enabled);
}

#else  // one function a device; CUDA's default type would be half

bool autocast_enabled(c10::DeviceType device) {
  return device == c10::kCUDA ? at::autocast::is_enabled() : at::autocast::is_cpu_enabled();
}

void set_autocast(c10::DeviceType device, bool enabled) {
  if (device == c10::kCUDA) {
    at::autocast::set_autocast_gpu_dtype(at::kBFloat16);
    at::autocast::set_enabled(enabled);
  } else {
    at::autocast::set_autocast_cpu_dtype(at::kBFloat16);
    at::autocast::set_cpu_enabled(enabled);
  }
}

#endif

std::uint32_t floating_point_mode() {
#if defined(__x86_64__)
  return _mm_getcsr() & ~0x3Fu;  // without the sticky exception flags
#else
  return 0;
#endif
}

}  // namespace

AutocastGuard::AutocastGuard(c10::DeviceType device, bool enabled)
    : device_(device), enabled_(enabled) {
  if (!enabled_) return;
  before_ = autocast_enabled(device_);
  set_autocast(device_, true);
}

AutocastGuard::~AutocastGuard() {
  if (!enabled_) return;
  if (!before_) at::autocast::clear_cache();
  set_autocast(device_, before_);
}

at::Generator make_generator(std::uint64_t seed) {
  return at::detail::createCPUGenerator(seed);
}

TorchState TorchState::now() {
  TorchState state;
  state.grad_mode = c10::GradMode::is_enabled();
  state.deterministic = at::globalContext().deterministicAlgorithms();
  state.autocast = autocast_enabled(c10::kCPU);
  state.threads = at::get_num_threads();
  state.default_type = static_cast<int>(c10::typeMetaToScalarType(c10::get_default_dtype()));
  state.floating_point = floating_point_mode();
  return state;
}

void TorchState::restore() const {
  c10::GradMode::set_enabled(grad_mode);
  at::globalContext().setDeterministicAlgorithms(deterministic, /*warn_only=*/true);
  if (autocast_enabled(c10::kCPU) != autocast) set_autocast(c10::kCPU, autocast);
  if (at::get_num_threads() != threads) at::set_num_threads(threads);
  c10::set_default_dtype(c10::scalarTypeToTypeMeta(static_cast<c10::ScalarType>(default_type)));
#if defined(__x86_64__)
  _mm_setcsr(floating_point | (_mm_getcsr() & 0x3Fu));
#endif
}

const char* libtorch_version() {
  return TORCH_VERSION;
}

}  // namespace backstop::host
