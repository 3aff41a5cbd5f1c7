// A dataset: reads images and labels from disk, or makes them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/context.hpp"

namespace backstop {
inline namespace v0 {

enum class Split : std::uint32_t {
  train = 0,
  test = 1,
  extra = 2,      ///< more labelled training images, not part of `train` (SVHN)
  unlabeled = 3,  ///< images without labels (STL-10)
};

[[nodiscard]] inline std::string_view to_string(Split split) {
  switch (split) {
    case Split::train:
      return "train";
    case Split::test:
      return "test";
    case Split::extra:
      return "extra";
    case Split::unlabeled:
      return "unlabeled";
  }
  return "unknown";
}

/// All images of a split.
struct Samples {
  /// uint8 [N, C, H, W], contiguous, on the CPU; C is 1 or 3. May be a read-only mapped file:
  /// nobody writes to it.
  at::Tensor images;
  at::Tensor labels;  ///< int64 [N] in 0 .. classes-1, on the CPU; -1 in Split::unlabeled
};

/// Mean and standard deviation of each channel over the training set, for pixels in [0, 1].
struct ChannelStatistics {
  double mean[3] = {0, 0, 0};
  double deviation[3] = {1, 1, 1};
};

/// A file that a dataset is made of. [the texts live as long as the dataset's object]
struct DataFile {
  std::string_view path;  ///< as it was found on disk
  std::string_view md5;   ///< as its makers published it, lower-case hexadecimal; empty: unknown
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
  /// The splits that load() knows; train and test are always among them.
  [[nodiscard]] virtual std::span<const Split> splits() const {
    static constexpr Split kSplits[] = {Split::train, Split::test};
    return kSplits;
  }
  /// The official files of a split that are on disk, for `backstop data` to verify; may be empty.
  [[nodiscard]] virtual std::span<const DataFile> files(Split) const { return {}; }
  /// After load(split): a text that differs whenever the tensors do, where the plugin has one at
  /// less cost than reading them all; empty: the host hashes the tensors.
  [[nodiscard]] virtual std::string_view fingerprint(Split) const { return {}; }
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
