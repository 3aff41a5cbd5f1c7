// The three products of a convolution on AMX: float32 weights times bfloat16 images, channels last.
// Sums are float32. The sum of an output pixel depends neither on the number of threads nor, where
// all numbers are finite, on the other images of the batch.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/util/BFloat16.h>

namespace backstop::engine::convolution_kernels {

/// The numbers of input and of output channels are multiples of this.
inline constexpr std::int64_t kChannels = 16;

/// A square kernel of odd size on square images, padded by half of it.
struct Shape {
  std::int64_t images = 0;
  std::int64_t in = 0, out = 0;  ///< channels
  std::int64_t side = 0;         ///< of the input images, in pixels
  std::int64_t kernel = 1, stride = 1;

  [[nodiscard]] std::int64_t padding() const { return kernel / 2; }
  [[nodiscard]] std::int64_t out_side() const { return (side - 1) / stride + 1; }
};

/// Whether the processor has AMX and the system lets this process use it.
bool available();

/// x * scale + offset, for each channel.
struct Affine {
  std::vector<float> scale, offset;
};

/// What is fused with a convolution: y = relu(after(conv(relu(before(x)))) + add).
struct Fusion {
  const Affine* before = nullptr;      ///< on the input channels, always with its ReLU
  const Affine* after = nullptr;       ///< on the output channels
  const c10::BFloat16* add = nullptr;  ///< laid out as y
  bool relu = false;                   ///< whether the outer ReLU is applied
};

/// x: [images, side, side, in]; weight: [out, kernel, kernel, in]; y: [images, S, S, out].
void forward(const Shape& shape, const c10::BFloat16* x, const float* weight, c10::BFloat16* y,
             const Fusion& fusion = {});

/// dy is laid out as y, dx as x.
void input_gradient(const Shape& shape, const c10::BFloat16* dy, const float* weight,
                    c10::BFloat16* dx);

/// dw is laid out as weight. The sum over images is split in the same way for any number of
/// threads. `before`: see Fusion.
void weight_gradient(const Shape& shape, const c10::BFloat16* x, const c10::BFloat16* dy, float* dw,
                     const Affine* before = nullptr);

}  // namespace backstop::engine::convolution_kernels
