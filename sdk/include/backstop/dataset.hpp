// A dataset: reads images and labels from disk, or generates them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/context.hpp"

namespace backstop {
inline namespace v0 {

/// A part of a dataset.
enum class Split : std::uint32_t {
  train = 0,
  test = 1,
  extra = 2,      ///< more labeled training images, not part of `train` (SVHN)
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
  /// uint8 [N, C, H, W], contiguous, on the CPU; C is 1 or 3. May be a read-only mapping of a file,
  /// so nothing may write to it.
  at::Tensor images;
  at::Tensor labels;  ///< int64 [N] in 0 .. classes-1, on the CPU; -1 in Split::unlabeled
};

/// Mean and standard deviation of each channel over the training set, for pixels in [0, 1]. Gray
/// images use the first entry.
struct ChannelStatistics {
  double mean[3] = {0, 0, 0};
  double deviation[3] = {1, 1, 1};
};

/// A file of a dataset. Its texts live as long as the dataset's object.
struct DataFile {
  std::string_view path;  ///< where it was found
  std::string_view
      md5;  ///< as published with the dataset, lower-case hexadecimal; empty if unknown
};

/// Implemented by plugins. Files may be hostile: check everything that is read before using it.
/// [run thread]
class Dataset {
 public:
  /// Reads one split. The same files give the same tensors. Throws EnvironmentError, with the file,
  /// what was found and what was expected, when anything is missing or wrong.
  virtual Samples load(Context& ctx, Split split) = 0;
  [[nodiscard]] virtual std::int64_t classes() const = 0;
  /// The official name of class `label` (0 .. classes-1).
  [[nodiscard]] virtual std::string_view class_name(std::int64_t label) const = 0;
  [[nodiscard]] virtual ChannelStatistics statistics() const = 0;
  /// The splits that load() can read, always including train and test.
  [[nodiscard]] virtual std::span<const Split> splits() const {
    static constexpr Split kSplits[] = {Split::train, Split::test};
    return kSplits;
  }
  /// The official files of a split that are on disk, for `backstop data` to verify; empty if there
  /// are none.
  [[nodiscard]] virtual std::span<const DataFile> files(Split) const { return {}; }
  /// Called after load(split). A text that differs whenever the tensors differ, if the plugin can
  /// give one without reading all of them; empty: the host hashes the tensors.
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
