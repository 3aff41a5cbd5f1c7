// The neurons of a model as adversarial neuron pruning sees them: the channels of all its batch
// norm layers, one after another in one vector.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backstop/model.hpp"

namespace backstop::anp {

class Neurons {
 public:
  /// Remembers the weights and biases that `model` has now. Throws ParameterError if it has no
  /// batch norm layer.
  explicit Neurons(Model& model);

  [[nodiscard]] std::int64_t count() const noexcept { return weights_.numel(); }
  /// Splits `per_neuron` [count] by layer.
  [[nodiscard]] std::vector<std::pair<std::string_view, at::Tensor>> by_layer(
      const at::Tensor& per_neuron) const;

  /// Sets every neuron's weight and bias to the remembered ones times these factors, float [count].
  void scale(const at::Tensor& weight_factors, const at::Tensor& bias_factors);

  struct Gradients {
    at::Tensor weight_factors, bias_factors;  ///< float [count]
  };
  /// The gradients of the model's cross-entropy with respect to these factors, at these factors.
  Gradients gradients(const at::Tensor& images, const at::Tensor& labels,
                      const at::Tensor& weight_factors, const at::Tensor& bias_factors);

 private:
  Model& model_;
  std::vector<std::string_view> names_;
  std::vector<at::Tensor> live_weights_, live_biases_;
  std::vector<std::int64_t> sizes_;
  at::Tensor weights_, biases_;
};

}  // namespace backstop::anp
