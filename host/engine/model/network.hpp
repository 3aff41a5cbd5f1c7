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

class Script;

struct Architecture {
  std::string name;
  std::int64_t width = 64;  ///< channels of the first stage
  std::int64_t channels = 3;
  std::int64_t classes = 10;
  std::int64_t pixels = 32 * 32;  ///< of an image, height times width; few networks depend on it
  std::shared_ptr<const Script> script = nullptr;  ///< what a TorchScript archive holds; else null
};

/// A body that turns normalized images into features, and a linear head. Where a TorchScript
/// archive ends in no linear layer, head() is empty and the body gives the logits.
class Network : public torch::nn::Module {
 public:
  /// [n, C, H, W], normalized, to [n, feature_size], or to logits if there is no head; reports every
  /// stage if `sink` is given.
  virtual at::Tensor body(at::Tensor images, ActivationSink* sink) = 0;
  [[nodiscard]] virtual const char* head_name() const = 0;  ///< "" if there is none
  [[nodiscard]] const std::vector<std::string_view>& stages() const { return stages_; }

  torch::nn::Linear& head() { return head_; }
  virtual void replace_head(std::int64_t classes);

 protected:
  void make_head(std::int64_t features, std::int64_t classes);

  torch::nn::Linear head_{nullptr};
  std::vector<std::string_view> stages_;
};

/// Draws the weights of a part anew: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for convolutions and linear
/// layers (PyTorch's default), 1 and 0 for the weight and bias of batch normalization, 0 and 1 for
/// its statistics. A TorchScript archive may have parameters of other layers: vectors called
/// `weight` become 1, other vectors 0, and all else is drawn like a convolution.
void reset_weights(Network& network, Part part, at::Generator& generator);

}  // namespace backstop::engine
