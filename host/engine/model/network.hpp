// What every network has in common. Module names are those PyTorch users know, so that weights can
// be exchanged with Python through safetensors files.
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
  /// [n, C, H, W], normalized, to [n, feature_size]; reports every stage if `sink` is given.
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

/// Draws the weights of a part anew: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for convolutions and linear
/// layers (PyTorch's default), 1 and 0 for the weight and bias of batch normalization, 0 and 1 for
/// its statistics.
void reset_weights(Network& network, Part part, at::Generator& generator);

}  // namespace backstop::engine
