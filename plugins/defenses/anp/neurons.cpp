#include "neurons.hpp"

#include <cstddef>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/csrc/autograd/autograd.h>

#include "backstop/error.hpp"

namespace backstop::anp {

Neurons::Neurons(Model& model) : model_(model) {
  for (const Layer& layer : model.layers()) {
    if (layer.kind != LayerKind::batch_norm) continue;
    names_.push_back(layer.name);
    live_weights_.push_back(layer.weight);
    live_biases_.push_back(layer.bias);
    sizes_.push_back(layer.weight.numel());
  }
  if (names_.empty())
    throw ParameterError("anp prunes the channels of batch norm layers, and the model has none",
                         "choose another `[model]` architecture or another defense");
  weights_ = at::cat(live_weights_).detach();
  biases_ = at::cat(live_biases_).detach();
}

std::vector<std::pair<std::string_view, at::Tensor>> Neurons::by_layer(
    const at::Tensor& per_neuron) const {
  const auto parts = per_neuron.split_with_sizes(sizes_);
  std::vector<std::pair<std::string_view, at::Tensor>> result;
  for (std::size_t i = 0; i < parts.size(); ++i) result.emplace_back(names_[i], parts[i]);
  return result;
}

void Neurons::scale(const at::Tensor& weight_factors, const at::Tensor& bias_factors) {
  const at::NoGradGuard no_gradients;
  const auto weights = weights_.mul(weight_factors).split_with_sizes(sizes_);
  const auto biases = biases_.mul(bias_factors).split_with_sizes(sizes_);
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    live_weights_[i].copy_(weights[i]);
    live_biases_[i].copy_(biases[i]);
  }
}

Neurons::Gradients Neurons::gradients(const at::Tensor& images, const at::Tensor& labels,
                                      const at::Tensor& weight_factors,
                                      const at::Tensor& bias_factors) {
  scale(weight_factors, bias_factors);
  const c10::AutoGradMode gradients(true);
  const at::Tensor loss = at::cross_entropy_loss(model_.forward(images), labels);
  // Asking for these alone leaves out the gradients of the convolutions' weights.
  torch::autograd::variable_list inputs = live_weights_;
  inputs.insert(inputs.end(), live_biases_.begin(), live_biases_.end());
  const auto input_gradients = torch::autograd::grad({loss}, inputs);
  const auto middle = input_gradients.begin() + static_cast<std::ptrdiff_t>(sizes_.size());
  return {at::cat(torch::autograd::variable_list(input_gradients.begin(), middle)).mul(weights_),
          at::cat(torch::autograd::variable_list(middle, input_gradients.end())).mul(biases_)};
}

}  // namespace backstop::anp
