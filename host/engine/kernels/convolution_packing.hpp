// Weights as the right tiles of a product. x86-64 only.
#pragma once

#if defined(__x86_64__)

#include <vector>

#include "host/engine/kernels/amx_tiles.hpp"
#include "host/engine/kernels/convolution_field.hpp"
#include "host/engine/kernels/convolution_kernels.hpp"

namespace backstop::engine::convolution_kernels {

/// The dimension that a product sums over, in steps of 32 numbers. Neighboring taps, with all their
/// channels, are one run of numbers; the last step of a run may look beyond it, where the weights
/// are zero. If there are many channels, some of them are taken for all taps before the next ones,
/// so that the pixels that a block of tiles looks at stay in the nearest cache.
struct ReductionSteps {
  struct Half {
    Index tap, channel;  ///< of the first of 16 numbers; tap < 0: zeros
  };
  std::vector<Index> steps;      ///< from the pixel, in numbers
  std::vector<Half> halves;      ///< two of each step
  std::vector<Index> stretches;  ///< steps that belong together: where each begins, and the end

  ReductionSteps(const std::vector<KernelTap>& taps, const FieldGrid& grid, Index channels);
  [[nodiscard]] Index count() const { return static_cast<Index>(steps.size()); }
};

/// The right tiles of 16 output channels: [steps, 16 pairs, 16 channels, 2].
void pack_forward(const Shape& s, const ReductionSteps& reduction, const float* weight,
                  Index first_out, BFloat16* to);

/// The right tiles of 16 input channels, for a sum over output channels.
void pack_backward(const Shape& s, const ReductionSteps& reduction, const float* weight,
                   Index first_in, BFloat16* to);

}  // namespace backstop::engine::convolution_kernels

#endif
