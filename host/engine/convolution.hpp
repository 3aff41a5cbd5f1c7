// Convolutions of small images as matrix products: on a CPU with AMX, oneDNN's own bfloat16 kernels
// for them are many times slower. docs/performance.md has the times.
#pragma once

#include "host/engine/torch.hpp"

namespace backstop::host {

/// What conv(x) gives, with its gradients. x: [N, C, H, W]; conv: square, a padding of half the
/// kernel, neither bias nor dilation nor groups. Products of matrices where autocast computes in
/// bfloat16 on a CPU with AMX, at the sizes at which they are faster, and use_own_kernels(false)
/// was not called; LibTorch's convolution everywhere else.
at::Tensor convolution(torch::nn::Conv2dImpl& conv, const at::Tensor& x);

}  // namespace backstop::host
