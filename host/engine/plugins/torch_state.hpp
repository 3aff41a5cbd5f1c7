// What differs between LibTorch 1.13 and 2.x, and the guards that LibTorch lacks. Together with
// train/cuda.cpp this is all in the project that depends on the version of LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <c10/core/Device.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace backstop::engine {

/// While it lives, convolutions and matrix products of this thread run in bfloat16 if `enabled`, and
/// in the types of their tensors otherwise. Where autocast was off before, the cache of cast
/// weights is cleared at the end: LibTorch would use stale ones after the next optimizer step.
class AutocastGuard {
 public:
  AutocastGuard(c10::DeviceType device, bool enabled);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  c10::DeviceType device_;
  bool before_;
};

/// Whether autocast is on for a kind of device, on this thread.
bool autocast_enabled(c10::DeviceType device);

/// A generator on the CPU that shares nothing with the global ones.
at::Generator make_generator(std::uint64_t seed);

/// Restores the CPU's default generator at its end. LibTorch's modules draw their initial weights
/// from it, even if those are replaced.
class DefaultGeneratorGuard {
 public:
  DefaultGeneratorGuard();
  ~DefaultGeneratorGuard();
  DefaultGeneratorGuard(const DefaultGeneratorGuard&) = delete;
  DefaultGeneratorGuard& operator=(const DefaultGeneratorGuard&) = delete;

 private:
  at::Tensor state_;
};

/// Copies `tensor` to `device` if it is not there. From the CPU to a GPU it goes through
/// page-locked memory, so that neither waits for the other.
at::Tensor send(const at::Tensor& tensor, c10::Device device);

/// Waits until `device` has finished all work.
void wait_for(c10::Device device);
int number_of_gpus();

struct SgdSettings {
  double momentum, weight_decay;
  bool nesterov;
};

/// A step of SGD (see make_optimizer) on tensors of one device, in a single call if LibTorch has
/// one (from 2.4 on). `buffers` is empty if the momentum is 0; `rate` is float32 [] on that device.
void sgd_step(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients,
              const std::vector<at::Tensor>& buffers, const SgdSettings& settings,
              const at::Tensor& rate);

/// What LibTorch could not get ("LibTorch asked for 2.1 GB"), if its error says that memory ran out.
std::optional<std::string> out_of_memory(std::string_view error);

/// The global state that a plugin could leave changed, and that would change what others compute:
/// LibTorch's modes (of this thread) and settings (of the process), its default generators, the
/// floating-point mode and the C locale.
class TorchState {
 public:
  static TorchState now();
  /// What is different in `later`, in words for users such as "gradient mode". Empty: nothing.
  [[nodiscard]] std::vector<std::string> differences(const TorchState& later) const;
  /// Restores everything.
  void restore() const;

 private:
  std::vector<std::int64_t> settings_;  ///< in the order of the table in torch_state.cpp
  c10::AutogradState autograd_ = c10::AutogradState::get_tls_state();
  c10::impl::LocalDispatchKeySet dispatch_keys_ = c10::impl::tls_local_dispatch_key_set();
  std::vector<at::Tensor> generators_;  ///< states of the CPU's and every GPU's default generator
  std::string locale_;
};

/// The version of the headers that this was built with, such as "1.13.0".
const char* libtorch_version();

}  // namespace backstop::engine
