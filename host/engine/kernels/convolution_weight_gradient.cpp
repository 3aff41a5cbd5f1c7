// The gradient of a convolution with respect to its weights, on AMX: for every tap the product of
// the output gradient and the pixels that the tap sees, summed over pixels.
#include <algorithm>
#include <vector>

#include "host/engine/kernels/amx_tiles.hpp"
#include "host/engine/kernels/convolution_field.hpp"
#include "host/engine/kernels/convolution_kernels.hpp"
#include "host/engine/kernels/parallel.hpp"

#if defined(__x86_64__)

namespace backstop::engine::convolution_kernels {

namespace {

/// Transposes a field [length, channels] to [channels, length].
BACKSTOP_AMX void transpose_field(const BFloat16* field, Index length, Index channels,
                                  BFloat16* to) {
  for (Index c = 0; c < channels; c += kTileRows) {
    for (Index p = 0; p < length; p += kTileDepth) {
      __m512i rows[kTileRows];
      for (Index i = 0; i < kTileRows; ++i) {
        const BFloat16* const at = field + (p + 2 * i) * channels + c;
        rows[i] = interleave(at, at + channels);
      }
      transpose(rows);
      for (Index i = 0; i < kTileRows; ++i) _mm512_storeu_si512(to + (c + i) * length + p, rows[i]);
    }
  }
}

/// Loads 16 channels of two pixels and interleaves them, as they are or as `before` makes them.
struct PixelPairLoader {
  const float *scale, *offset;  ///< 16 each, or null

  [[nodiscard]] BACKSTOP_AMX __m512i operator()(const BFloat16* a, const BFloat16* b) const {
    if (scale == nullptr) return interleave(a, b);
    return interleave(activated(a), activated(b));
  }
  [[nodiscard]] BACKSTOP_AMX __m512 activated(const BFloat16* p) const {
    return activate(widen(p), _mm512_loadu_ps(scale), _mm512_loadu_ps(offset));
  }
};

/// Writes `pixels` of 16 channels each, which lie `pitch` numbers apart, to their places among
/// pairs of pixels, [length / 2, 16, 2], the first of them to place `at` of `length`. If the other
/// half of a pair is not among them, it stays as it is.
BACKSTOP_AMX void write_pixel_pairs(const BFloat16* from, Index pitch, Index pixels, Index at,
                                    const PixelPairLoader& pair, BFloat16* to) {
  constexpr __mmask32 kFirst = 0x55555555, kSecond = 0xaaaaaaaa;
  to += at / 2 * kTileDepth;
  if (at % 2 != 0) {
    _mm512_mask_storeu_epi16(to, kSecond, pair(from, from));
    from += pitch;
    --pixels;
    to += kTileDepth;
  }
  for (; pixels > 1; pixels -= 2, from += 2 * pitch, to += kTileDepth)
    _mm512_store_si512(to, pair(from, from + pitch));
  if (pixels > 0) _mm512_mask_storeu_epi16(to, kFirst, pair(from, from));
}

/// What all tasks of weight_gradient() have in common.
struct WeightGradientPlan {
  const Shape& shape;
  FieldGrid grid;
  std::vector<KernelTap> taps;
  Index phases;
  const Affine* before;

  /// Right tiles: every tap of every 16 input channels, those of the same channels side by side.
  [[nodiscard]] Index combinations() const {
    return shape.in / kTileRows * static_cast<Index>(taps.size());
  }
  [[nodiscard]] Index plane() const { return grid.length * shape.in; }  ///< numbers of a field
  /// Numbers of what write_pixel_pairs() makes of as many images as the grid holds.
  [[nodiscard]] Index of_chunk() const { return 2 * phases * plane(); }
};

/// Writes some images as fields of pixel pairs, once with pairs that begin at even positions and
/// once at odd ones, because a tap may look at either. `to`: [2 * phases, in / 16, length / 2, 16,
/// 2], zero except for the pixels of as many images before.
void write_pixel_pairs(const WeightGradientPlan& plan, const BFloat16* x, Index images,
                       BFloat16* to) {
  const Shape& s = plan.shape;
  const FieldGrid& g = plan.grid;
  for (Index phase = 0; phase < plan.phases; ++phase) {
    const Index top = phase / s.stride, left = phase % s.stride;
    const Index pixels = (s.side - left + s.stride - 1) / s.stride;
    for (Index n = 0; n < images; ++n) {
      for (Index y = top; y < s.side; y += s.stride) {
        const BFloat16* const from = x + ((n * s.side + y) * s.side + left) * s.in;
        const Index at = g.lead + n * g.image + y / s.stride * g.row;
        for (Index c = 0; c < s.in; c += kTileRows) {
          const bool plain = plan.before == nullptr;
          const PixelPairLoader pair{plain ? nullptr : plan.before->scale.data() + c,
                                     plain ? nullptr : plan.before->offset.data() + c};
          for (const Index odd : {0, 1})
            write_pixel_pairs(from + c, s.stride * s.in, pixels, at - odd, pair,
                              to + (phase * 2 + odd) * plan.plane() + c * (g.length - 2 * odd));
        }
      }
    }
  }
}

/// One task: adds the products of some images to `sums`, [outs / 16, combinations, 16 out, 16 in].
/// `shared` holds all images as pairs, or is null if no other task needs them.
void add_weight_gradient(const WeightGradientPlan& plan, const BFloat16* x, const BFloat16* shared,
                         const BFloat16* dy, Index images, Index first_out, Index outs,
                         float* sums) {
  constexpr Index kStretch = 512;
  const Shape& s = plan.shape;
  const FieldGrid& g = plan.grid;
  const auto taps = static_cast<Index>(plan.taps.size());
  const Index side = s.out_side(), of_x = s.side * s.side * s.in, of_dy = side * side * s.out;
  AlignedBuffer<BFloat16> gradient(g.length * outs), turned(g.length * outs);
  AlignedBuffer<BFloat16> own(shared == nullptr ? plan.of_chunk() : 0);
  float unused[kTileRows * kTileRows] = {};
  own.clear();
  gradient.clear();
  const TileScope tiles;
  for (Index first = 0; first < images; first += g.images) {
    const Index count = std::min(g.images, images - first);
    if (count < g.images) {
      own.clear();
      gradient.clear();
    }
    if (shared == nullptr) write_pixel_pairs(plan, x + first * of_x, count, own.get());
    const BFloat16* const pairs =
        shared == nullptr ? own.get() : shared + first / g.images * plan.of_chunk();
    fill_field(gradient.get(), g, 1, 1, dy + first * of_dy + first_out, count, side, s.out, outs);
    const Index length = g.positions(count);
    transpose_field(gradient.get() + g.lead * outs, length, outs, turned.get());
    // Short stretches of pixels, so that tiles stay in the nearest cache.
    for (Index begin = 0; begin < length; begin += kStretch) {
      const Index steps = std::min(kStretch, length - begin) / kTileDepth;
      for (Index c = 0; c < plan.combinations(); c += kTilesTogether) {
        const BFloat16* right[kTilesTogether];
        Index which[kTilesTogether];
        for (Index j = 0; j < kTilesTogether; ++j) {
          which[j] = std::min(c + j, plan.combinations() - 1);
          const KernelTap& tap = plan.taps[static_cast<std::size_t>(which[j] % taps)];
          const Index at = g.lead + tap.distance + begin, odd = at % 2;
          const Index of_tile = (g.length - odd * 2) * kTileRows;
          right[j] = pairs + (tap.phase * 2 + odd) * plan.plane() + which[j] / taps * of_tile +
                     (at - odd) * kTileRows;
        }
        for (Index o = 0; o < outs / kTileRows; ++o) {
          float* to[kTilesTogether];
          for (Index j = 0; j < kTilesTogether; ++j)
            to[j] = which[j] == c + j
                        ? sums + (o * plan.combinations() + which[j]) * kTileRows * kTileRows
                        : unused;
          multiply_weights(turned.get() + o * kTileRows * length + begin, length, right, steps, to);
        }
      }
    }
  }
}

/// Adds up the sums that the ranges of images gave, as [out, kernel * kernel, in].
BACKSTOP_AMX void sum_parts(const WeightGradientPlan& plan, const std::vector<const float*>& parts,
                            Index out, float* dw) {
  const auto taps = static_cast<Index>(plan.taps.size());
  for (Index which = 0; which < plan.combinations(); ++which) {
    const Index place = plan.taps[static_cast<std::size_t>(which % taps)].place;
    const Index at = (out / kTileRows * plan.combinations() + which) * kTileRows * kTileRows;
    for (Index i = 0; i < kTileRows; ++i) {
      __m512 sum = _mm512_setzero_ps();
      for (const float* part : parts)
        sum = _mm512_add_ps(sum, _mm512_load_ps(part + at + i * kTileRows));
      _mm512_storeu_ps(dw + ((out + i) * taps + place) * plan.shape.in + which / taps * kTileRows,
                       sum);
    }
  }
}

}  // namespace

void weight_gradient(const Shape& s, const BFloat16* x, const BFloat16* dy, float* dw,
                     const Affine* before) {
  constexpr Index kSumBytes = 768 << 10, kFewOuts = 64, kTasks = 8, kChunkBytes = 320 << 10;
  const Index phases = phases_of(s);
  // Output channels of a task: as many as have sums that stay in the cache.
  const Index of_out = s.kernel * s.kernel * s.in * Index{sizeof(float)};
  const Index of_task =
      std::min(s.out, std::max(kFewOuts, kSumBytes / of_out / kTileRows * kTileRows));
  const Index ranges = (s.out + of_task - 1) / of_task;
  const Index parts = std::clamp<Index>(kTasks / ranges, 1, s.images);
  const Index of_part = (s.images + parts - 1) / parts;
  const Index chunk = images_at_once(s, margin_of(s), phases * s.in * Index{sizeof(BFloat16)},
                                     kChunkBytes, of_part);
  const FieldGrid grid(s.out_side(), margin_of(s), chunk);
  const WeightGradientPlan plan{s, grid, forward_taps(s, grid), phases, before};
  const Index of_x = s.side * s.side * s.in, of_dy = s.out_side() * s.out_side() * s.out;
  const Index chunks = (of_part + chunk - 1) / chunk;  // of a part
  const bool share = ranges > 1;
  AlignedBuffer<BFloat16> pairs(share ? parts * chunks * plan.of_chunk() : 0);
  if (share) {
    parallel_pieces(parts * chunks, [&](const auto& next) {
      for (Index i = next(); i < parts * chunks; i = next()) {
        const Index first = std::min(i / chunks * of_part + i % chunks * chunk, s.images);
        const Index until = std::min((i / chunks + 1) * of_part, s.images);
        BFloat16* const to = pairs.get() + i * plan.of_chunk();
        std::fill_n(to, plan.of_chunk(), BFloat16(0.0F));
        write_pixel_pairs(plan, x + first * of_x, std::clamp<Index>(until - first, 0, chunk), to);
      }
    });
  }
  const Index size = s.out * s.in * s.kernel * s.kernel;  // of a part's sums
  AlignedBuffer<float> sums(parts * size);
  const Index of_tile = plan.combinations() * kTileRows * kTileRows;
  parallel_pieces(ranges * parts, [&](const auto& next) {
    for (Index task = next(); task < ranges * parts; task = next()) {
      const Index first_out = task / parts * of_task, outs = std::min(of_task, s.out - first_out);
      const Index part = task % parts, first = std::min(part * of_part, s.images);
      const Index images = std::min(of_part, s.images - first);
      float* const to = sums.get() + part * size + first_out / kTileRows * of_tile;
      std::fill_n(to, outs / kTileRows * of_tile, 0.0F);
      add_weight_gradient(plan, x + first * of_x,
                          share ? pairs.get() + part * chunks * plan.of_chunk() : nullptr,
                          dy + first * of_dy, images, first_out, outs, to);
    }
  });
  std::vector<const float*> all;
  for (Index part = 0; part < parts; ++part) all.push_back(sums.get() + part * size);
  parallel_pieces(s.out / kTileRows, [&](const auto& next) {
    for (Index t = next(); t < s.out / kTileRows; t = next())
      sum_parts(plan, all, t * kTileRows, dw);
  });
}

}  // namespace backstop::engine::convolution_kernels

#endif
