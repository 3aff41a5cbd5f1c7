// The loops of convolution.cpp, over one image of bfloat16, channels last.
#pragma once

#include <cstddef>
#include <cstdint>

#include <c10/util/BFloat16.h>

namespace backstop::host::convolution_kernels {

/// Channels are a multiple of this.
inline constexpr std::size_t kChannels = 16;
inline constexpr std::int64_t kLargestKernel = 7;

/// A square kernel on a square image.
struct Window {
  std::size_t channels = 0;  ///< that come in
  std::int64_t side = 0, kernel = 0, stride = 1, padding = 0;
  std::int64_t out_side = 0;  ///< of the image that goes out
};

/// [side, side, channels] to [out_side, out_side, kernel, kernel, channels]: what lies under the
/// kernel, zeros beyond the border.
void unfold(const c10::BFloat16* image, const Window& window, c10::BFloat16* unfolded);

/// The other way: the sum of all places that a pixel was copied to, in float32.
void fold(const c10::BFloat16* unfolded, const Window& window, c10::BFloat16* image);

}  // namespace backstop::host::convolution_kernels
