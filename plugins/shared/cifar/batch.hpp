// One file of CIFAR-10 or CIFAR-100: images of 3 x 32 x 32 bytes with their labels, either in the
// records of the binary version or in a pickle of the Python version.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "shared/files/file.hpp"

namespace backstop::cifar {

inline constexpr std::int64_t kImageSize = 3 * 32 * 32;

/// Where the labels are.
struct LabelFormat {
  std::int64_t bytes;    ///< number of label bytes before each image in the binary version
  std::int64_t which;    ///< index of the byte to use
  std::string_view key;  ///< key of the labels in the Python version's dictionary
  std::int64_t classes;
};

enum class Version { binary, python };

class Batch {
 public:
  /// Checks the file, which must hold 1 to `most` images. Throws EnvironmentError.
  Batch(files::File file, Version version, const LabelFormat& format, std::int64_t most);

  [[nodiscard]] const files::File& file() const noexcept { return file_; }
  [[nodiscard]] std::int64_t images() const noexcept { return count_; }

  /// Reads `count` images starting at `first`, uint8 [count, 3, 32, 32], and their labels. Throws
  /// EnvironmentError when a label is not in 0 .. classes-1.
  void read(std::int64_t first, std::int64_t count, std::uint8_t* images,
            std::int64_t* labels) const;

 private:
  void read_records(std::int64_t first, std::int64_t count, std::uint8_t* images,
                    std::int64_t* labels) const;
  void read_columns(std::int64_t first, std::int64_t count, std::uint8_t* images) const;

  files::File file_;
  LabelFormat format_;
  std::int64_t count_ = 0;
  // Only for the Python version:
  std::vector<std::int64_t> labels_;
  std::uint64_t data_offset_ = 0;
  bool column_major_ = false;
};

}  // namespace backstop::cifar
