// A dataset: reads images and labels from disk, or makes them.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/context.hpp"

namespace backstop {
inline namespace v0 {

enum class Split : std::uint32_t { train = 0, test = 1 };

/// All images of a split.
struct Samples {
  at::Tensor images;  ///< uint8 [N, C, H, W], contiguous, on the CPU; C is 1 or 3
  at::Tensor labels;  ///< int64 [N] in 0 .. classes-1, on the CPU
};

/// Mean and standard deviation of each channel over the training set, for pixels in [0, 1].
struct ChannelStatistics {
  double mean[3] = {0, 0, 0};
  double deviation[3] = {1, 1, 1};
};

/// Implemented by plugins. Files may be hostile: whatever is read is checked before it is used.
/// [run thread]
class Dataset {
 public:
  /// Reads one split; the same files give the same tensors. Throws EnvironmentError, naming the
  /// file, what was found and what was expected, when anything is missing or wrong.
  virtual Samples load(Context& ctx, Split split) = 0;
  [[nodiscard]] virtual std::int64_t classes() const = 0;
  /// The official name of class `label` (0 .. classes-1).
  [[nodiscard]] virtual std::string_view class_name(std::int64_t label) const = 0;
  [[nodiscard]] virtual ChannelStatistics statistics() const = 0;
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  Dataset() = default;
  Dataset(const Dataset&) = default;
  Dataset& operator=(const Dataset&) = default;
  ~Dataset() = default;
};

}  // namespace v0
}  // namespace backstop
