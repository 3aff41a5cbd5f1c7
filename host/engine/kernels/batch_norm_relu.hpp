// Batch normalization with the ReLU behind it, in fewer passes over memory than LibTorch's two
// operators: docs/performance.md has what that saves.
#pragma once

#include <vector>

#include "host/engine/torch.hpp"

namespace backstop::engine {

/// relu(norm(x)), with the gradients of both and the effect on running statistics. x: [N, C, H, W].
/// Computed here for dense channels-last x of float32 or bfloat16 on the CPU with channels a
/// multiple of 16, by LibTorch otherwise and where use_own_kernels(false) was called. The sums are
/// those of fixed blocks of pixels: the number of threads does not change the result. Statistics
/// and gradients of the parameters are float32.
at::Tensor batch_norm_relu(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x);

// -- the same in its parts, for who computes some of them elsewhere --

/// Whether x is computed here.
bool can_normalize(const torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x);

/// What a channel is normalized by.
struct Statistics {
  at::Tensor values;      ///< float32 [2, C]: mean, 1 / sqrt(variance + epsilon)
  bool of_batch = false;  ///< they depend on x
};

/// In training those of x, which the running ones follow; else the running ones.
Statistics statistics_of(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x);

/// relu(norm(x)) is max(0, x * scale + offset). [C]
struct NormAffine {
  NormAffine(const at::Tensor& statistics, const at::Tensor& weight, const at::Tensor& bias);
  std::vector<float> mean, inverse, scale, offset;
};

/// relu(norm(x)) with its gradients.
at::Tensor batch_norm_relu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                           const Statistics& statistics);

struct NormGradients {
  at::Tensor input, weight, bias;
};

/// Its gradients, which can be differentiated in gradient mode. `input_needed`: else that one may
/// be undefined.
NormGradients batch_norm_relu_backward(const at::Tensor& x, const at::Tensor& weight,
                                       const at::Tensor& bias, const Statistics& statistics,
                                       const at::Tensor& dy, bool input_needed);

}  // namespace backstop::engine
