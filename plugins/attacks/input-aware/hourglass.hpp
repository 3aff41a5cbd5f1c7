// The network that makes patterns and masks from images: down to small feature maps and up again,
// without skip connections.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

/// tanh(z) / (2 + 1e-7) + 0.5, in [0, 1].
at::Tensor squashed(const at::Tensor& z);

/// `levels` times two convolutions and 2 x 2 max pooling, then one convolution, then `levels` times
/// bilinear upsampling and two convolutions; squashed() at the end. All convolutions are 3 x 3 with
/// batch normalization, and with ReLU except for the last.
///
/// Made of plain tensors, because LibTorch's modules draw their weights from the global generator.
class Hourglass {
 public:
  /// From images with `channels` channels to `outputs` channels, with `width` channels at the first
  /// level and twice as many at each further one. The weights are zero until draw().
  Hourglass(std::int64_t channels, std::int64_t outputs, std::int64_t width, std::int64_t levels);

  /// PyTorch's default initialization.
  void draw(at::Generator& generator);

  enum class Mode { training, evaluation };  ///< of batch normalization
  /// Images [n, channels, H, W] in [0, 1] to [n, outputs, H, W] in [0, 1], of the images' type; the
  /// convolutions are computed in `precision`. H and W must be at least 2^levels pixels.
  at::Tensor forward(const at::Tensor& images, Mode mode, at::ScalarType precision);

  /// Everything that is learned, by name; writing to the tensors changes the network.
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// The tensors of the state that require gradients.
  [[nodiscard]] std::vector<at::Tensor> parameters() const;
  /// Replaces each tensor by what `move` returns for it.
  template <typename Move>
  void transfer(const Move& move) {
    for (Block& block : blocks_)
      for (at::Tensor* tensor : block.tensors()) tensor->set_data(move(tensor->detach()));
  }

 private:
  struct Block {
    at::Tensor weight;          ///< of the convolution
    at::Tensor scale, shift;    ///< of batch normalization
    at::Tensor mean, variance;  ///< its running statistics
    std::vector<at::Tensor*> tensors() { return {&weight, &scale, &shift, &mean, &variance}; }
  };

  std::int64_t levels_;
  std::vector<Block> blocks_;
};
