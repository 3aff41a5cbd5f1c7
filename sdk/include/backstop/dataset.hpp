// A dataset: reads images and labels from disk, or generates them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/abi.h"
#include "backstop/context.hpp"

namespace backstop {
inline namespace v1 {

/// A part of a dataset. The host asks only for the parts that Dataset::splits names.
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

/// Receives the images of a split. Implemented by the host; valid during Dataset::load.
/// [run thread]
class SampleSink {
 public:
  /// Appends images, uint8 [n, C, H, W], contiguous, on the CPU, with C 1 or 3, and their labels,
  /// int64 [n] in 0 .. classes-1, on the CPU, or -1 in Split::unlabeled. A split may come in one
  /// piece or in several of the same C, H and W, in the dataset's order. One piece is kept without a
  /// copy, so it may be a read-only mapping of a file. The host never writes to the images. Throws
  /// Error for other types or shapes. [run thread]
  virtual void add(const at::Tensor& images, const at::Tensor& labels) = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~SampleSink() = default;
};

/// Receives the names of a dataset's files. Implemented by the host; valid during Dataset::files.
/// [run thread]
class FileSink {
 public:
  /// A file, where it was found, and its MD5 as published with the dataset, in lower-case
  /// hexadecimal; empty if unknown. [run thread]
  virtual void file(std::string_view path, std::string_view md5) = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~FileSink() = default;
};

/// Implemented by plugins. Files may be hostile: check everything that is read before using it.
/// [run thread]
class Dataset {
 public:
  /// Reads one split into `sink`. The same files give the same tensors. The host calls it for the
  /// splits that it needs, in any order, perhaps for none, and perhaps twice; a constructor should
  /// only look for files. Throws EnvironmentError, with the file, what was found and what was
  /// expected, when anything is missing or wrong. [run thread]
  virtual void load(Services& services, Split split, SampleSink& sink) = 0;
  /// The number of classes. The host asks after load(), and so for class_name(). [run thread]
  [[nodiscard]] virtual std::int64_t classes() const = 0;
  /// The official name of class `label` (0 .. classes-1). [run thread]
  [[nodiscard]] virtual std::string_view class_name(std::int64_t label) const = 0;
  /// Mean of each channel over the training set, for pixels in [0, 1]: one number a channel, valid
  /// as long as the object. [run thread]
  [[nodiscard]] virtual std::span<const double> means() const = 0;
  /// Standard deviation of each channel, in the same way; greater than 0. [run thread]
  [[nodiscard]] virtual std::span<const double> deviations() const = 0;
  /// The splits that load() can read, always including train and test. [run thread]
  [[nodiscard]] virtual std::span<const Split> splits() const {
    static constexpr Split kSplits[] = {Split::train, Split::test};
    return kSplits;
  }
  /// Names the official files of a split that are on disk, for `backstop data` to verify.
  /// [run thread]
  virtual void files(Split, FileSink&) const {}
  /// Called after load(split). A text that differs whenever the tensors differ, if the plugin can
  /// give one without reading all of them; empty: the host hashes the tensors. [run thread]
  [[nodiscard]] virtual std::string_view fingerprint(Split) const { return {}; }
  /// Finds an additional interface by its identifier; null when there is none. [run thread]
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  Dataset() = default;
  Dataset(const Dataset&) = default;
  Dataset& operator=(const Dataset&) = default;
  ~Dataset() = default;
};

}  // namespace v1
}  // namespace backstop
