// What differs between LibTorch 1.13 and 2.x, and what LibTorch lacks a guard for. Nothing else in
// the project looks at LibTorch's version.
#pragma once

#include <cstdint>

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>

namespace backstop::host {

/// Runs convolutions and matrix products in bfloat16 while it lives, on the thread that made it.
/// Clears the cache of casted weights at its end: LibTorch would otherwise use stale ones after the
/// next optimiser step.
class AutocastGuard {
 public:
  AutocastGuard(c10::DeviceType device, bool enabled);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  c10::DeviceType device_;
  bool enabled_;
  bool before_ = false;
};

/// A generator on the CPU that shares nothing with the global ones.
at::Generator make_generator(std::uint64_t seed);

/// Global state that plugins can change and that would change what everybody else computes.
struct TorchState {
  bool grad_mode = true;
  bool deterministic = false;
  bool autocast = false;
  int threads = 0;
  int default_type = 0;
  std::uint32_t floating_point = 0;  ///< MXCSR: rounding, flush to zero

  static TorchState now();
  void restore() const;
};

/// "1.13.0", of the headers that this was built with.
const char* libtorch_version();

}  // namespace backstop::host
