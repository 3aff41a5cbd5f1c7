// The network that makes patterns and masks from images: down to small maps and up again, without
// connections across.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

/// tanh(z) / (2 + 1e-7) + 0.5, which is in [0, 1].
at::Tensor squashed(const at::Tensor& z);

/// `levels` times two convolutions and a halving, one convolution, `levels` times a doubling and
/// two convolutions, all 3 x 3 with batch norm, and with ReLU but for the last; then squashed().
///
/// Made of plain tensors: LibTorch's modules draw their weights from the global generator.
class Hourglass {
 public:
  /// For images of `channels`; `width` channels at the first level and twice as many at each
  /// further one. Its weights are not drawn yet.
  Hourglass(std::int64_t channels, std::int64_t outputs, std::int64_t width, std::int64_t levels);

  /// PyTorch's default initialisation.
  void draw(at::Generator& generator);

  enum class Mode { training, evaluation };  ///< of batch norm
  /// Images [n, channels, H, W] in [0, 1] to [n, outputs, H, W] in [0, 1], of the images' type; the
  /// convolutions are computed in `precision`. H and W are at least 2^levels pixels.
  at::Tensor forward(const at::Tensor& images, Mode mode, at::ScalarType precision);

  /// Everything that is learnt, by name; writing to the tensors changes the network.
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// What of it asks for gradients.
  [[nodiscard]] std::vector<at::Tensor> parameters() const;
  /// Moves the tensors, each by `move`.
  template <typename Move>
  void transfer(const Move& move) {
    for (Block& block : blocks_)
      for (at::Tensor* tensor : block.tensors()) tensor->set_data(move(tensor->detach()));
  }

 private:
  struct Block {
    at::Tensor weight, scale, shift;  ///< the convolution's, batch norm's
    at::Tensor mean, variance;
    std::vector<at::Tensor*> tensors() { return {&weight, &scale, &shift, &mean, &variance}; }
  };

  std::int64_t levels_;
  std::vector<Block> blocks_;
};
