#include "host/engine/kernels/convolution_product.hpp"

#if defined(__x86_64__)

#include <algorithm>

namespace backstop::engine::convolution_kernels {

namespace {

constexpr Index kGroupBytes = 1 << 20, kMostTiles = 8;

/// See OutputPixels; of one number of images.
std::vector<std::int32_t> output_pixels(const FieldGrid& grid, Index count, Index to, Index stride,
                                        Index top, Index left) {
  std::vector<std::int32_t> targets(static_cast<std::size_t>(grid.positions(count)), -1);
  for (Index n = 0; n < count; ++n) {
    for (Index y = 0; y * stride + top < to; ++y) {
      for (Index x = 0; x * stride + left < to; ++x)
        targets[static_cast<std::size_t>(n * grid.image + y * grid.row + x)] =
            static_cast<std::int32_t>((n * to + y * stride + top) * to + x * stride + left);
    }
  }
  return targets;
}

/// Prefetches share `i` of `shares` of the cache lines that a block of rows will be stored to.
void prefetch_rows(const std::int32_t* targets, Index i, Index shares, BFloat16* to, Index all) {
  const Index share = (kBlockRows + shares - 1) / shares;
  for (Index row = i * share; row < std::min((i + 1) * share, kBlockRows); ++row) {
    if (targets[row] < 0) continue;
    for (Index c = 0; c < shares * kTileRows; c += kTileDepth)
      __builtin_prefetch(to + targets[row] * all + c, 1, 3);
  }
}

}  // namespace

OutputPixels::OutputPixels(const FieldGrid& grid, Index chunk, Index images, Index to, Index stride,
                           Index top, Index left)
    : chunk_(chunk),
      whole_(output_pixels(grid, std::min(chunk, images), to, stride, top, left)),
      last_(output_pixels(grid, images % chunk, to, stride, top, left)) {}

void PackedWeights::multiply_field(const BFloat16* origin, Index channels,
                                   const std::vector<std::int32_t>& targets, BFloat16* to,
                                   const Fusion& fusion) const {
  const Index tile_size = reduction.count() * kTileSize, all = tiles * kTileRows;
  const Index group =
      std::clamp<Index>(kGroupBytes / (tile_size * Index{sizeof(BFloat16)}), 1, kMostTiles);
  constexpr Index kSums = kBlockRows * kTileRows;
  // Sums of the tiles under way: the finished ones are stored while the next are computed.
  const Index rooms = reduction.stretches.size() > 2 ? group : 1;
  AlignedBuffer<float> room(2 * rooms * kSums);
  Index used = 0;
  OutputRows rows;
  const auto positions = static_cast<Index>(targets.size());
  for (Index first = 0; first < tiles; first += group) {
    const Index last = std::min(tiles, first + group);
    for (Index p = 0; p < positions; p += kBlockRows) {
      for (std::size_t stretch = 0; stretch + 1 < reduction.stretches.size(); ++stretch) {
        const Index begin = reduction.stretches[stretch], end = reduction.stretches[stretch + 1];
        const bool done = end == reduction.count();
        for (Index t = first; t < last; ++t) {
          if (done && p + kBlockRows < positions)
            prefetch_rows(&targets[static_cast<std::size_t>(p + kBlockRows)], t - first,
                          last - first, to + first * kTileRows, all);
          float* const sums = room.get() + (used * rooms + (rooms > 1 ? t - first : 0)) * kSums;
          multiply_pixels(origin + p * channels, channels,
                          &reduction.steps[static_cast<std::size_t>(begin)], end - begin,
                          packed.get() + t * tile_size + begin * kTileSize, sums, stretch > 0,
                          rows);
          rows.write(kBlockRows);
          if (!done) continue;
          const auto channel = static_cast<std::size_t>(t * kTileRows);
          const Affine* after = fusion.after;
          rows = {sums,
                  &targets[static_cast<std::size_t>(p)],
                  to + t * kTileRows,
                  all,
                  after == nullptr ? nullptr : &after->scale[channel],
                  after == nullptr ? nullptr : &after->offset[channel],
                  fusion.add == nullptr ? nullptr : fusion.add + t * kTileRows,
                  fusion.relu,
                  0};
          if (rooms == 1 || t + 1 == last) used = 1 - used;
        }
      }
    }
  }
  rows.write(kBlockRows);
}

}  // namespace backstop::engine::convolution_kernels

#endif
