// Images in memory as uint8, and the one pass that turns them into batches: gather, crop, flip and
// normalize.
#pragma once

#include <cstdint>
#include <memory>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "backstop/image_set.hpp"
#include "host/engine/data/normalization.hpp"

namespace backstop::engine {

/// Random crop, after padding with black, and random horizontal flip.
struct Augmentation {
  std::int64_t crop_padding = 0;  ///< pixels on each side
  bool horizontal_flip = false;
};

/// The random augmentation of each image of a batch.
struct Draws {
  at::Tensor dx, dy;  ///< int64 [n]: shift in pixels, -padding .. padding
  at::Tensor flip;    ///< bool [n]
};

/// Draws the augmentation of `n` images, on the CPU. Tensors are undefined where nothing is to be
/// augmented.
Draws draw_augmentation(const Augmentation& augmentation, std::int64_t n, at::Generator& generator);

/// A set of images whose subsets share its pixels.
class ImageStore final : public ImageSet {
 public:
  /// `images`: uint8 [N, C, H, W], never written to; `labels`: int64 [N] in 0 .. classes-1; both
  /// are moved to `device`. `indices`: int64 [N] on the CPU; if undefined, 0 .. N-1.
  ImageStore(at::Tensor images, at::Tensor labels, std::int64_t classes, c10::Device device,
             at::Tensor indices = {});

  std::int64_t size() const noexcept override { return labels_.size(0); }
  std::int64_t channels() const noexcept override { return images_.size(1); }
  std::int64_t height() const noexcept override { return images_.size(2); }
  std::int64_t width() const noexcept override { return images_.size(3); }
  std::int64_t classes() const noexcept override { return classes_; }
  at::Tensor images(const at::Tensor& positions) const override;
  at::Tensor labels() const override { return labels_; }
  at::Tensor indices() const override { return indices_; }

  /// The images at `positions` (int64 [m]). Shares the pixels.
  [[nodiscard]] ImageStore subset(const at::Tensor& positions) const;
  /// The same set with other images (uint8 [m, C, H, W]) and labels at `positions`. Shares the
  /// pixels of the rest. It keeps the indices.
  [[nodiscard]] ImageStore changed(const at::Tensor& positions, const at::Tensor& images,
                                   const at::Tensor& labels) const;
  /// uint8 [m, C, H, W].
  [[nodiscard]] at::Tensor pixels(const at::Tensor& positions) const;
  /// Normalized and augmented images for the model, [m, C, H, W] in channels-last, bfloat16 or
  /// float32. Only for a set on the CPU.
  [[nodiscard]] at::Tensor batch(const at::Tensor& positions, const Normalization& normalization,
                                 const Draws& draws, bool bfloat16) const;

 private:
  ImageStore() = default;
  [[nodiscard]] at::Tensor rows(const at::Tensor& positions) const;

  at::Tensor images_;   ///< uint8, all images of the store that this set belongs to
  at::Tensor changed_;  ///< uint8, images numbered after them in `rows_`; undefined: none
  at::Tensor rows_;     ///< int64 [size]: which of them are in this set; undefined: all
  at::Tensor labels_;
  at::Tensor indices_;
  std::int64_t classes_ = 0;
};

/// The same shifts and flips for images that are floats already, [n, C, H, W], with black outside.
/// Keeps gradients.
at::Tensor apply_augmentation(const at::Tensor& images, const Draws& draws);

/// Rounds pixels in [0, 1] to the 8 bits of an image file: round(255 x).
at::Tensor to_8_bits(const at::Tensor& images);

}  // namespace backstop::engine
