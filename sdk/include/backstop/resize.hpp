// Resizes 8-bit images with an antialiased triangle filter, to the same bytes on every machine: the
// weights are integers, computed only with integer arithmetic. The result is that of Pillow's
// BILINEAR.
//
//   const backstop::Resizer resizer(96, 96, 32, 32);         // once for all images of one size
//   resizer.planes(image, 3, result);                        // uint8 [3, 96, 96] -> [3, 32, 32]
//   resizer.plane(rgb + channel, 3, 3 * 96, result_plane);   // one channel of [96, 96, 3]
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace backstop {
inline namespace v1 {

/// Resizes images from one size to another. A pixel of the result is the mean of the pixels around
/// its center, weighted by a triangle as wide as two pixels of the coarser grid. The first pass
/// runs along the rows, the second along the columns; each rounds to 8 bits, halves up. [any
/// thread]
class Resizer {
 public:
  /// The largest height or width, in pixels.
  static constexpr std::int64_t kMaximum = 1 << 14;

  /// Throws std::invalid_argument for sizes that are not in 1 .. kMaximum.
  Resizer(std::int64_t from_height, std::int64_t from_width, std::int64_t to_height,
          std::int64_t to_width)
      : from_height_(from_height),
        from_width_(from_width),
        to_height_(to_height),
        to_width_(to_width),
        rows_(from_height, to_height),
        columns_(from_width, to_width) {}

  /// Resizes one channel. The pixel in row y and column x is from[y * row_stride + x *
  /// pixel_stride], so that `from` and the strides can select a crop, or a channel of an
  /// interleaved image. `to` has to_height x to_width bytes, without gaps, and does not overlap
  /// with `from`.
  void plane(const std::uint8_t* from, std::ptrdiff_t pixel_stride, std::ptrdiff_t row_stride,
             std::uint8_t* to) const {
    std::vector<std::uint8_t> narrow(static_cast<std::size_t>(from_height_ * to_width_));
    for (std::int64_t y = 0; y < from_height_; ++y)
      columns_.apply(from + y * row_stride, pixel_stride, narrow.data() + y * to_width_, 1);
    for (std::int64_t x = 0; x < to_width_; ++x)
      rows_.apply(narrow.data() + x, to_width_, to + x, to_width_);
  }

  /// Resizes an image whose channels follow each other without gaps: uint8
  /// [channels, from_height, from_width] to [channels, to_height, to_width].
  void planes(const std::uint8_t* from, std::int64_t channels, std::uint8_t* to) const {
    for (std::int64_t channel = 0; channel < channels; ++channel)
      plane(from + channel * from_height_ * from_width_, 1, from_width_,
            to + channel * to_height_ * to_width_);
  }

 private:
  /// The weights along one side.
  class Axis {
   public:
    Axis(std::int64_t from, std::int64_t to) {
      if (from < 1 || to < 1 || from > kMaximum || to > kMaximum)
        throw std::invalid_argument("cannot resize from or to a side outside 1 .. 16384 pixels");
      spans_.reserve(static_cast<std::size_t>(to));
      // In units of 1 / (2 from to) of the side, centers and the triangle's reach are integers.
      const std::int64_t reach = 2 * std::max(from, to);
      for (std::int64_t i = 0; i < to; ++i) {
        const std::int64_t center = (2 * i + 1) * from;
        Span span{0, weights_.size(), 0};
        std::int64_t total = 0;
        std::vector<std::int64_t> heights;
        for (std::int64_t pixel = std::max<std::int64_t>(0, (center - reach - to) / (2 * to));
             pixel < from; ++pixel) {
          const std::int64_t distance = (2 * pixel + 1) * to - center;
          if (distance <= -reach) continue;
          if (distance >= reach) break;
          if (heights.empty()) span.first = pixel;
          heights.push_back(reach - (distance < 0 ? -distance : distance));
          total += heights.back();
        }
        for (std::int64_t height : heights)
          weights_.push_back(
              static_cast<std::int32_t>(((height << (kBits + 1)) + total) / (2 * total)));
        span.count = heights.size();
        spans_.push_back(span);
      }
    }

    /// One line of pixels.
    void apply(const std::uint8_t* from, std::ptrdiff_t from_stride, std::uint8_t* to,
               std::ptrdiff_t to_stride) const {
      for (const Span& span : spans_) {
        const std::int32_t* weight = weights_.data() + span.weights;
        const std::uint8_t* pixel = from + span.first * from_stride;
        // At most kMaximum weights are rounded by at most a half each, so they add up to
        // 2^22 +- 2^13: no sum is off by half a gray level, and none exceeds 32 bits.
        std::uint32_t sum = 1U << (kBits - 1);
        for (std::size_t i = 0; i < span.count; ++i, pixel += from_stride)
          sum += static_cast<std::uint32_t>(weight[i]) * *pixel;
        *to = static_cast<std::uint8_t>(sum >> kBits);
        to += to_stride;
      }
    }

   private:
    static constexpr int kBits = 22;
    struct Span {
      std::int64_t first;   ///< pixel
      std::size_t weights;  ///< position of its weight
      std::size_t count;
    };
    std::vector<Span> spans_;
    std::vector<std::int32_t> weights_;
  };

  std::int64_t from_height_, from_width_, to_height_, to_width_;
  Axis rows_, columns_;
};

}  // namespace v1
}  // namespace backstop
