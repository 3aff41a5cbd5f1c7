// What differs between LibTorch 1.13 and 2.x, and what LibTorch lacks a guard for. Nothing else in
// the project looks at LibTorch's version.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <c10/core/Device.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace backstop::engine {

/// Runs convolutions and matrix products in bfloat16 while it lives, on the thread that made it.
/// Clears the cache of casted weights at its end: LibTorch would otherwise use stale ones after the
/// next optimizer step.
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

/// Whether autocast is on for a kind of device, on this thread.
bool autocast_enabled(c10::DeviceType device);

/// A generator on the CPU that shares nothing with the global ones.
at::Generator make_generator(std::uint64_t seed);

/// Puts the CPU's default generator back at its end: LibTorch's modules draw their first weights
/// from it, whatever becomes of them.
class DefaultGeneratorGuard {
 public:
  DefaultGeneratorGuard();
  ~DefaultGeneratorGuard();
  DefaultGeneratorGuard(const DefaultGeneratorGuard&) = delete;
  DefaultGeneratorGuard& operator=(const DefaultGeneratorGuard&) = delete;

 private:
  at::Tensor state_;
};

/// `tensor` on `device`. From the CPU to a GPU it goes through page-locked memory, so that neither
/// waits for the other.
at::Tensor send(const at::Tensor& tensor, c10::Device device);

/// Returns when `device` has done all that was asked of it.
void wait_for(c10::Device device);
int number_of_gpus();

struct SgdSettings {
  double momentum, weight_decay;
  bool nesterov;
};

/// A step of SGD (see make_optimizer) on tensors of any one device; one call where LibTorch has one
/// (2.4). `buffers` is empty where the momentum is 0; `rate` is float32 [], on that device.
void sgd_step(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients,
              const std::vector<at::Tensor>& buffers, const SgdSettings& settings,
              const at::Tensor& rate);

/// Every piece of global state that a plugin can leave changed, and that would change what
/// everybody else computes: LibTorch's modes (of this thread) and settings (of the process), its
/// default generators, the floating-point mode and the C locale.
class TorchState {
 public:
  static TorchState now();
  /// What `later` differs in, as a user would call it: "gradient mode". Empty: nothing.
  [[nodiscard]] std::vector<std::string> differences(const TorchState& later) const;
  /// Puts everything back.
  void restore() const;

 private:
  std::vector<std::int64_t> settings_;  ///< in the order of the table in libtorch.cpp
  c10::AutogradState autograd_ = c10::AutogradState::get_tls_state();
  c10::impl::LocalDispatchKeySet dispatch_keys_ = c10::impl::tls_local_dispatch_key_set();
  std::vector<at::Tensor> generators_;  ///< states of the CPU's and every GPU's default generator
  std::string locale_;
};

/// "1.13.0", of the headers that this was built with.
const char* libtorch_version();

}  // namespace backstop::engine
