// Batch normalization followed by ReLU, in fewer passes over memory than LibTorch's two operators
// take. docs/performance.md says what that saves.
#pragma once

#include <vector>

#include "host/engine/torch.hpp"

namespace backstop::engine {

/// relu(norm(x)), with the gradients of both and the effect on running statistics. x: [N, C, H, W].
/// It is computed here for dense channels-last x of float32 or bfloat16 on the CPU if the number of
/// channels is a multiple of 16, and by LibTorch otherwise or after use_own_kernels(false). Sums
/// are formed over fixed blocks of pixels, so the number of threads does not change the result.
/// Statistics and the gradients of parameters are float32.
at::Tensor batch_norm_relu(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x);

// -- its parts, for kernels that compute some of them elsewhere --

/// Whether batch_norm_relu() computes this x itself.
bool can_normalize(const torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x);

/// What each channel is normalized by.
struct Statistics {
  at::Tensor values;      ///< float32 [2, C]: mean, 1 / sqrt(variance + epsilon)
  bool of_batch = false;  ///< whether they depend on x
};

/// In training the statistics of x, which also update the running ones; otherwise the running ones.
Statistics statistics_of(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& x);

/// The coefficients, [C], of relu(norm(x)) = max(0, x * scale + offset).
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

/// Its gradients, which can themselves be differentiated in gradient mode. The gradient of the
/// input may be undefined unless `input_needed`.
NormGradients batch_norm_relu_backward(const at::Tensor& x, const at::Tensor& weight,
                                       const at::Tensor& bias, const Statistics& statistics,
                                       const at::Tensor& dy, bool input_needed);

}  // namespace backstop::engine
