// Batch normalisation with the ReLU behind it, in fewer passes over memory than LibTorch's two
// operators: docs/performance.md has what that saves.
#pragma once

#include "host/engine/torch.hpp"

namespace backstop::host {

/// relu(norm(x)), with the gradients of both and the effect on running statistics. x: [N, C, H, W].
/// Computed here for dense channels-last x of float32 or bfloat16 on the CPU with channels a
/// multiple of 16, by LibTorch otherwise and where use_own_kernels(false) was called. The sums are
/// those of fixed blocks of pixels: the number of threads does not change the result. Statistics
/// and gradients of the parameters are float32.
at::Tensor batch_norm_relu(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x);

}  // namespace backstop::host
