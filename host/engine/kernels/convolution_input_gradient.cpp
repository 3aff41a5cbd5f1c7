// The gradient of a convolution with respect to its input, on AMX: a product like the forward pass,
// for each phase of the stride.
#include <algorithm>
#include <vector>

#include "host/engine/kernels/convolution_kernels.hpp"
#include "host/engine/kernels/convolution_product.hpp"

#if defined(__x86_64__)

namespace backstop::engine::convolution_kernels {

void input_gradient(const Shape& s, const BFloat16* dy, const float* weight, BFloat16* dx) {
  const Index side = s.out_side();
  constexpr Index kBytes{sizeof(BFloat16)};
  const Index weight_bytes = s.out * s.in * s.kernel * s.kernel * kBytes;
  const Index chunk = images_at_once(s, margin_of(s), s.out * kBytes, weight_bytes);
  const FieldGrid grid(side, margin_of(s), chunk);
  struct Phase {
    Index top, left;
    PackedWeights filters;
  };
  std::vector<Phase> phases;
  for (Index top = 0; top < s.stride; ++top) {
    for (Index left = 0; left < s.stride; ++left) {
      const std::vector<KernelTap> taps = backward_taps(s, grid, top, left);
      if (taps.empty()) continue;  // pixels that no tap saw
      phases.push_back(
          {top, left,
           PackedWeights(ReductionSteps(taps, grid, s.out), s.in,
                         [&](const ReductionSteps& reduction, Index first, BFloat16* to) {
                           pack_backward(s, reduction, weight, first, to);
                         })});
    }
  }
  const Index of_x = s.side * s.side * s.in, of_y = side * side * s.out;
  const Index chunks = (s.images + chunk - 1) / chunk;
  const bool all_seen = phases.size() == static_cast<std::size_t>(s.stride * s.stride);
  parallel_pieces(chunks, [&](const auto& next) {
    const TileScope tiles;
    AlignedBuffer<BFloat16> field(grid.length * s.out);
    field.clear();
    std::vector<OutputPixels> targets;
    for (const Phase& phase : phases)
      targets.emplace_back(grid, chunk, s.images, s.side, s.stride, phase.top, phase.left);
    for (Index i = next(); i < chunks; i = next()) {
      const Index first = i * chunk, count = std::min(chunk, s.images - first);
      if (!all_seen) std::fill_n(dx + first * of_x, count * of_x, BFloat16(0.0F));
      fill_field(field.get(), grid, 1, 1, dy + first * of_y, count, side, s.out, s.out);
      for (std::size_t phase = 0; phase < phases.size(); ++phase)
        phases[phase].filters.multiply_field(field.get() + grid.lead * s.out, s.out,
                                             targets[phase].of(count), dx + first * of_x);
    }
  });
}

}  // namespace backstop::engine::convolution_kernels

#endif
