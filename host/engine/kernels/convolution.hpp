// Convolutions of bfloat16 images on AMX: docs/performance.md compares them with oneDNN's.
#pragma once

#include "host/engine/torch.hpp"

namespace backstop::engine {

/// What conv(x) + add gives, with its gradients; `add` may be undefined. x: [N, C, H, W]; conv:
/// square, of odd size, a padding of half the kernel, neither bias nor dilation nor groups.
/// Computed here where autocast computes in bfloat16 on a CPU with AMX, channels are a multiple of
/// 16, images are square, and use_own_kernels(false) was not called; by LibTorch everywhere else.
at::Tensor convolution(torch::nn::Conv2dImpl& conv, const at::Tensor& x,
                       const at::Tensor& add = {});

/// What conv(relu(norm(x))) + add gives, with its gradients and the effect on running statistics:
/// batch_norm_relu() and convolution() in one, which writes down nothing between the two where both
/// are computed here and x is bfloat16.
at::Tensor normalized_convolution(torch::nn::BatchNorm2dImpl& norm, torch::nn::Conv2dImpl& conv,
                                  const at::Tensor& x, const at::Tensor& add = {});

/// What stands before and behind a convolution.
struct Neighbors {
  torch::nn::BatchNorm2dImpl* before = nullptr;  ///< with a ReLU
  torch::nn::BatchNorm2dImpl* after = nullptr;
  at::Tensor add = {};  ///< as what comes out
  bool relu = false;    ///< the last one
};

/// Whether infer() can be used on x: nobody differentiates, statistics are the running ones, and
/// convolution() would be computed here.
bool can_infer(const torch::nn::Conv2dImpl& conv, const torch::nn::BatchNorm2dImpl& norm,
               const at::Tensor& x);

/// relu(after(conv(relu(before(x)))) + add) in one pass over memory; sums are float32 until the
/// end.
at::Tensor infer(torch::nn::Conv2dImpl& conv, const at::Tensor& x, const Neighbors& neighbors);

}  // namespace backstop::engine
