// A set of labelled images as a plugin sees it.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace backstop {
inline namespace v0 {

/// Labelled images of one size, resident in memory. Implemented by the host; what a plugin gets is
/// valid until the call that handed it over returns.
class ImageSet {
 public:
  [[nodiscard]] virtual std::int64_t size() const noexcept = 0;
  [[nodiscard]] virtual std::int64_t channels() const noexcept = 0;
  [[nodiscard]] virtual std::int64_t height() const noexcept = 0;  ///< pixels
  [[nodiscard]] virtual std::int64_t width() const noexcept = 0;   ///< pixels
  [[nodiscard]] virtual std::int64_t classes() const noexcept = 0;
  /// The images at `positions` (int64 [m], each in 0 .. size-1): float32 [m, C, H, W] in [0, 1] on
  /// the run's device. A new tensor: changing it changes nothing else.
  [[nodiscard]] virtual at::Tensor images(const at::Tensor& positions) const = 0;
  /// int64 [size] in 0 .. classes-1, on the run's device. Do not change it.
  [[nodiscard]] virtual at::Tensor labels() const = 0;
  /// int64 [size] on the CPU: the position of each image in the dataset's split that it came from;
  /// -1 for an image that a plugin made. Do not change it.
  [[nodiscard]] virtual at::Tensor indices() const = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~ImageSet() = default;
};

}  // namespace v0
}  // namespace backstop
