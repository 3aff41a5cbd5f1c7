// The networks that a recipe can name. Module names are those PyTorch users know, so that weights
// can be exchanged with Python through safetensors files:
//
//   preact-resnet18  conv1, layerN.M.{bn1,conv1,bn2,conv2,shortcut.0}, linear. CIFAR stem, no batch
//   norm
//                    after the last stage (as BackdoorBench has it).
//   resnet18         conv1, bn1, layerN.M.{conv1,bn1,conv2,bn2,downsample.{0,1}}, fc: torchvision's
//   names,
//                    with a 3x3 stem of stride 1 and no max-pooling.
//   small-cnn        conv1, bn1, conv2, bn2, conv3, bn3, linear: for tests and first steps.
//   mlp              fc1, fc2, linear: two hidden layers of eight times the width on the flattened
//                    image. No stages, no convolution, no batch norm.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backstop/model.hpp"
#include "host/engine/torch.hpp"

namespace backstop::engine {

struct Architecture {
  std::string name;
  std::int64_t width = 64;  ///< channels of the first stage
  std::int64_t channels = 3;
  std::int64_t classes = 10;
  std::int64_t pixels = 32 * 32;  ///< of an image, height times width; only an mlp depends on it
};

/// A body that turns normalized images into features, and a linear head.
class Network : public torch::nn::Module {
 public:
  /// [n, C, H, W], normalized, to [n, feature_size]; reports every stage when `sink` is given.
  virtual at::Tensor body(at::Tensor images, ActivationSink* sink) = 0;
  [[nodiscard]] virtual const char* head_name() const = 0;
  [[nodiscard]] const std::vector<std::string_view>& stages() const { return stages_; }

  torch::nn::Linear& head() { return head_; }
  void replace_head(std::int64_t classes);

 protected:
  void make_head(std::int64_t features, std::int64_t classes);

  torch::nn::Linear head_{nullptr};
  std::vector<std::string_view> stages_;
};

/// The names that make_network knows.
const std::vector<std::string>& architecture_names();

/// With LibTorch's own initialisation; see reset_weights.
std::shared_ptr<Network> make_network(const Architecture& architecture);

/// Draws the weights of a part anew: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for convolutions and linear
/// layers (PyTorch's default), 1 and 0 for batch norm's weight and bias, 0 and 1 for its
/// statistics.
void reset_weights(Network& network, Part part, at::Generator& generator);

}  // namespace backstop::engine
