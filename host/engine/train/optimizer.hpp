// What changes a model's parameters after every batch.
#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backstop/trainer.hpp"

namespace backstop::engine {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Of the steps to come; 0 at first.
  virtual void set_rate(double rate) = 0;
  /// Changes every parameter that has a gradient.
  virtual void step() = 0;
  /// Whether a step is work of the device alone, which takes the rate from the device too: what a
  /// CUDA graph can hold.
  [[nodiscard]] virtual bool recordable() const noexcept = 0;
};

/// Of float32 `parameters`, on one device. SGD: g = gradient + weight_decay p, b = momentum b + g
/// from b = 0, p = p - rate (nesterov ? g + momentum b : b), on every device in as few passes over
/// memory as it allows; on a CPU with AVX-512 rounded where LibTorch's operators round. Adam and
/// AdamW are LibTorch's. Throws Error for an unknown kind.
std::unique_ptr<Optimizer> make_optimizer(std::vector<at::Tensor> parameters,
                                          const OptimizerOptions& options);

}  // namespace backstop::engine
