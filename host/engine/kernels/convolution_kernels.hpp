// A convolution's three products on AMX, float32 weights times bfloat16 images, channels last. Sums
// are float32; an output pixel's does not depend on the number of threads, nor, where all numbers
// are finite, on its neighbors in the batch.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/util/BFloat16.h>

namespace backstop::engine::convolution_kernels {

/// Channels, of both sides, are a multiple of this.
inline constexpr std::int64_t kChannels = 16;

/// A square kernel of odd size on square images, padded by half of it.
struct Shape {
  std::int64_t images = 0;
  std::int64_t in = 0, out = 0;  ///< channels
  std::int64_t side = 0;         ///< of the images that come in
  std::int64_t kernel = 1, stride = 1;

  [[nodiscard]] std::int64_t padding() const { return kernel / 2; }
  [[nodiscard]] std::int64_t out_side() const { return (side - 1) / stride + 1; }
};

/// Whether the processor has AMX, and the system lets this process use it.
bool available();

/// x * scale + offset, for each channel.
struct Affine {
  std::vector<float> scale, offset;
};

/// What a convolution does besides: y = relu(after(conv(relu(before(x)))) + add).
struct Around {
  const Affine* before = nullptr;      ///< of the channels that come in, always with its ReLU
  const Affine* after = nullptr;       ///< of those that go out
  const c10::BFloat16* add = nullptr;  ///< as y
  bool relu = false;                   ///< the last one
};

/// x: [images, side, side, in]; weight: [out, kernel, kernel, in]; y: [images, S, S, out].
void forward(const Shape& shape, const c10::BFloat16* x, const float* weight, c10::BFloat16* y,
             const Around& around = {});

/// dy: as y; dx: as x.
void input_gradient(const Shape& shape, const c10::BFloat16* dy, const float* weight,
                    c10::BFloat16* dx);

/// dw: as weight. The sum over images is cut up in the same way on any number of threads. `before`:
/// see Around.
void weight_gradient(const Shape& shape, const c10::BFloat16* x, const c10::BFloat16* dy, float* dw,
                     const Affine* before = nullptr);

}  // namespace backstop::engine::convolution_kernels
