// The forward pass of a convolution on AMX. See convolution_field.hpp for the way it works.
#include <algorithm>

#include "host/engine/kernels/convolution_kernels.hpp"
#include "host/engine/kernels/convolution_product.hpp"

#if defined(__x86_64__)

namespace backstop::engine::convolution_kernels {

void forward(const Shape& s, const BFloat16* x, const float* weight, BFloat16* y,
             const Fusion& fusion) {
  const Index side = s.out_side(), phases = phases_of(s);
  constexpr Index kBytes{sizeof(BFloat16)};
  const Index weight_bytes = s.out * s.in * s.kernel * s.kernel * kBytes;
  const Index chunk = images_at_once(s, margin_of(s), phases * s.in * kBytes, weight_bytes);
  const FieldGrid grid(side, margin_of(s), chunk);
  PackedWeights filters(ReductionSteps(forward_taps(s, grid), grid, s.in), s.out,
                        [&](const ReductionSteps& reduction, Index first, BFloat16* to) {
                          pack_forward(s, reduction, weight, first, to);
                        });
  const Index of_x = s.side * s.side * s.in, of_y = side * side * s.out;
  const Index chunks = (s.images + chunk - 1) / chunk;
  parallel_pieces(chunks, [&](const auto& next) {
    const TileScope tiles;
    AlignedBuffer<BFloat16> field(phases * grid.length * s.in);
    field.clear();
    const OutputPixels targets(grid, chunk, s.images, side, 1, 0, 0);
    for (Index i = next(); i < chunks; i = next()) {
      const Index first = i * chunk, count = std::min(chunk, s.images - first);
      fill_field(field.get(), grid, s.stride, phases, x + first * of_x, count, s.side, s.in, s.in,
                 fusion.before);
      Fusion here = fusion;
      if (here.add != nullptr) here.add += first * of_y;
      filters.multiply_field(field.get() + grid.lead * s.in, s.in, targets.of(count),
                             y + first * of_y, here);
    }
  });
}

}  // namespace backstop::engine::convolution_kernels

#endif
