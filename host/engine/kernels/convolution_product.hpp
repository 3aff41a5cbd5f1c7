// The product that the forward pass and the input gradient have in common: fields of images times
// packed weights. x86-64 only.
#pragma once

#if defined(__x86_64__)

#include <cstdint>
#include <utility>
#include <vector>

#include "host/engine/kernels/amx_tiles.hpp"
#include "host/engine/kernels/convolution_field.hpp"
#include "host/engine/kernels/convolution_kernels.hpp"
#include "host/engine/kernels/convolution_packing.hpp"
#include "host/engine/kernels/parallel.hpp"

namespace backstop::engine::convolution_kernels {

/// Which pixel of the output, [images, to, to], each position of a grid is; -1: none. Position
/// (Y, X) is pixel (Y * stride + top, X * stride + left). Known for `chunk` images at once and for
/// the fewer images at the end.
class OutputPixels {
 public:
  OutputPixels(const FieldGrid& grid, Index chunk, Index images, Index to, Index stride, Index top,
               Index left);

  [[nodiscard]] const std::vector<std::int32_t>& of(Index count) const {
    return count == chunk_ ? whole_ : last_;
  }

 private:
  Index chunk_;
  std::vector<std::int32_t> whole_, last_;
};

/// The right tiles of a product for all channels that go out, and where its left tiles lie.
struct PackedWeights {
  ReductionSteps reduction;
  Index tiles;  ///< of 16 channels that go out
  AlignedBuffer<BFloat16> packed;

  template <typename Pack>
  PackedWeights(ReductionSteps of, Index channels, const Pack& pack)
      : reduction(std::move(of)),
        tiles(channels / kTileRows),
        packed(tiles * reduction.count() * kTileSize) {
    parallel_pieces(tiles, [&](const auto& next) {
      for (Index t = next(); t < tiles; t = next())
        pack(reduction, t * kTileRows, packed.get() + t * reduction.count() * kTileSize);
    });
  }

  /// Multiplies all positions of a field with `channels` and stores them at their `targets` in
  /// `to`. Tiles are taken in groups that stay in the cache.
  void multiply_field(const BFloat16* origin, Index channels,
                      const std::vector<std::int32_t>& targets, BFloat16* to,
                      const Fusion& fusion = {}) const;
};

}  // namespace backstop::engine::convolution_kernels

#endif
