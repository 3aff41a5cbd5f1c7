// The straight line between two models.
#pragma once

#include "host/engine/store/safetensors.hpp"

namespace backstop::engine {

/// (1 - t) a + t b of all weights and of the statistics of batch normalization, in float32; what is
/// not made of floating-point numbers (counters of batches) is that of `b`. The same tensors in the
/// same order; a pruned channel is one whose weights are 0.
NamedTensors between(const NamedTensors& a, const NamedTensors& b, double t);

}  // namespace backstop::engine
