// Convolutions of bfloat16 images on AMX. docs/performance.md compares them with oneDNN's.
#pragma once

#include "host/engine/torch.hpp"

namespace backstop::engine {

/// conv(x) + add, with its gradients; `add` may be undefined. x: [N, C, H, W]. `conv` has a square
/// kernel of odd size, padded by half of it, and neither bias nor dilation nor groups.
/// It is computed here if autocast computes in bfloat16 on a CPU with AMX, the numbers of channels
/// are multiples of 16, images are square and use_own_kernels(false) was not called; otherwise by
/// LibTorch.
at::Tensor convolution(torch::nn::Conv2dImpl& conv, const at::Tensor& x,
                       const at::Tensor& add = {});

/// conv(relu(norm(x))) + add, with its gradients and the effect on running statistics. It is
/// batch_norm_relu() and convolution() in one, and stores nothing between the two if both are
/// computed here and x is bfloat16.
at::Tensor normalized_convolution(torch::nn::BatchNorm2dImpl& norm, torch::nn::Conv2dImpl& conv,
                                  const at::Tensor& x, const at::Tensor& add = {});

/// What comes before and after a convolution.
struct Neighbors {
  torch::nn::BatchNorm2dImpl* before = nullptr;  ///< with its ReLU
  torch::nn::BatchNorm2dImpl* after = nullptr;
  at::Tensor add = {};  ///< of the shape of the output
  bool relu = false;    ///< whether the outer ReLU is applied
};

/// Whether infer() can be used on x: no gradients are needed, the statistics are the running ones,
/// and convolution() would be computed here.
bool can_infer(const torch::nn::Conv2dImpl& conv, const torch::nn::BatchNorm2dImpl& norm,
               const at::Tensor& x);

/// relu(after(conv(relu(before(x)))) + add) in one pass over memory. Sums stay float32 until the
/// result is stored.
at::Tensor infer(torch::nn::Conv2dImpl& conv, const at::Tensor& x, const Neighbors& neighbors);

}  // namespace backstop::engine
