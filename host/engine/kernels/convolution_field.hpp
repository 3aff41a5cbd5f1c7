// How images lie in memory while they are convolved. They are copied into a field, where all pixels
// of some images lie one after the other with zeros between the rows and between the images. What a
// tap of the kernel sees from pixel p then lies at a fixed distance from p, whatever p is, so 16
// consecutive pixels are a tile as they lie there, for every tap, and nothing has to be unfolded.
// With a stride of s a tap sees every s-th pixel: those lie apart, in s * s fields ("phases").
// x86-64 only.
#pragma once

#if defined(__x86_64__)

#include <vector>

#include "host/engine/kernels/amx_tiles.hpp"
#include "host/engine/kernels/convolution_kernels.hpp"

namespace backstop::engine::convolution_kernels {

/// Where the pixels of some images lie in a field: rows of `side` pixels, `margin` zeros behind
/// each row, as many rows of zeros behind each image, and enough zeros before and behind
/// everything.
struct FieldGrid {
  Index side, margin, row, image;
  Index images;  ///< that a field holds
  Index lead;    ///< zeros before the first pixel
  Index length;  ///< of a field, in pixels

  FieldGrid(Index of_side, Index of_margin, Index count)
      : side(of_side),
        margin(of_margin),
        row(side + margin),
        image(row * row),
        images(count),
        lead(round_up(margin * row + margin, kTileDepth)),
        length(lead + round_up(count * image, kBlockRows) + lead + kTileDepth) {}

  /// How many positions must be computed for so many images.
  [[nodiscard]] Index positions(Index of_images) const {
    return of_images == 0 ? 0 : round_up(of_images * image - margin * row, kBlockRows);
  }
};

/// Batch normalization and ReLU: max(0, x * scale + offset).
inline BACKSTOP_AMX __m512 activate(__m512 x, __m512 scale, __m512 offset) {
  return _mm512_max_ps(_mm512_setzero_ps(), _mm512_fmadd_ps(x, scale, offset));
}

/// Copies `count` images, `channels` of their `all` channels, from [count, from, from, all] into a
/// field for each phase of `stride`. `field`: [phases, length, channels], cleared before its first
/// use. `before`: see Fusion.
void fill_field(BFloat16* field, const FieldGrid& grid, Index stride, Index phases,
                const BFloat16* images, Index count, Index from, Index all, Index channels,
                const Affine* before = nullptr);

/// One position of the kernel: where it looks from a pixel, and its index in a filter.
struct KernelTap {
  Index phase, distance;  ///< in pixels
  Index place;            ///< ky * kernel + kx
};

/// The taps of the output pixels.
std::vector<KernelTap> forward_taps(const Shape& s, const FieldGrid& grid);

/// The taps of the input pixels (Y * stride + top, X * stride + left): the pixels of dy that their
/// gradients come from.
std::vector<KernelTap> backward_taps(const Shape& s, const FieldGrid& grid, Index top, Index left);

/// How many images a thread takes at once: about as many as fill `bytes`, or fewer, so that every
/// thread gets some, and of these numbers the one that leaves the least of the last block empty.
Index images_at_once(const Shape& s, Index margin, Index bytes_of_a_position, Index bytes,
                     Index at_most);

/// The same for a product whose weights take `weight_bytes`: if they do not stay in the cache, they
/// are read again for every such group of images.
Index images_at_once(const Shape& s, Index margin, Index bytes_of_a_position, Index weight_bytes);

/// How many fields the taps look at.
Index phases_of(const Shape& s);

/// How many zeros every row needs beside it.
Index margin_of(const Shape& s);

}  // namespace backstop::engine::convolution_kernels

#endif
