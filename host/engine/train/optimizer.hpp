// Optimizers, which update the parameters of a model after every batch.
#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backstop/trainer.hpp"
#include "host/engine/store/safetensors.hpp"

namespace backstop::engine {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Sets the learning rate of the steps to come; it is 0 at first.
  virtual void set_rate(double rate) = 0;
  /// Updates every parameter that has a gradient.
  virtual void step() = 0;
  /// Whether a step happens entirely on the device, including reading the learning rate, so that a
  /// CUDA graph can hold it.
  [[nodiscard]] virtual bool recordable() const noexcept = 0;
  /// What the steps to come depend on, besides the parameters and the learning rate.
  [[nodiscard]] virtual NamedTensors state() const = 0;
  /// The state of another optimizer with the same options, for the same parameters. Throws Error if
  /// it does not fit them.
  virtual void load_state(const NamedTensors& state) = 0;
};

/// An optimizer of float32 `parameters` on one device. SGD is g = gradient + weight_decay p, b =
/// momentum b + g starting from b = 0, p = p - rate (nesterov ? g + momentum b : b), on every
/// device in as few passes over memory as possible; on a CPU with AVX-512 it rounds where
/// LibTorch's operators round. Adam and AdamW are LibTorch's. Throws Error for an unknown kind.
std::unique_ptr<Optimizer> make_optimizer(std::vector<at::Tensor> parameters,
                                          const OptimizerOptions& options);

}  // namespace backstop::engine
