// A set of labeled images as a plugin sees it.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/abi.h"

namespace backstop {
inline namespace v1 {

/// Labeled images of one size, held in memory. Implemented by the host. An image set is valid until
/// the plugin's function that received it, or asked the Context for it, returns. [run thread]: call
/// its members on the thread on which the host called the plugin, as with everything marked so.
class ImageSet {
 public:
  /// [run thread]
  [[nodiscard]] virtual std::int64_t size() const noexcept = 0;
  /// [run thread]
  [[nodiscard]] virtual std::int64_t channels() const noexcept = 0;
  /// Pixels. [run thread]
  [[nodiscard]] virtual std::int64_t height() const noexcept = 0;
  /// Pixels. [run thread]
  [[nodiscard]] virtual std::int64_t width() const noexcept = 0;
  /// [run thread]
  [[nodiscard]] virtual std::int64_t classes() const noexcept = 0;
  /// The images at `positions` (int64 [m], each in 0 .. size-1): float32 [m, C, H, W] in [0, 1] on
  /// the run's device. The tensor is a copy, which may be changed. [run thread]
  [[nodiscard]] virtual at::Tensor images(const at::Tensor& positions) const = 0;
  /// The label of each image: int64 [size] in 0 .. classes-1, on the run's device. Do not change
  /// the tensor. [run thread]
  [[nodiscard]] virtual at::Tensor labels() const = 0;
  /// Where each image comes from: int64 [size] on the CPU, its position in the dataset's split, also
  /// in a subset and where an attack has changed the image; -1 for an image that a plugin made. Do
  /// not change the tensor. [run thread]
  [[nodiscard]] virtual at::Tensor indices() const = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~ImageSet() = default;
};

}  // namespace v1
}  // namespace backstop
