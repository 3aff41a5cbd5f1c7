// What the datasets with official files share beyond reading them: how many images those hold,
// which MD5 they have, which splits there are, and memory for the images.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <sys/mman.h>

#include "backstop/dataset.hpp"
#include "backstop/error.hpp"

namespace backstop::files {

/// The files of one split that are on disk, as Dataset::files() gives them.
class DataFiles {
 public:
  /// Adds `path` if there is such a file.
  void add(const std::filesystem::path& path, std::string_view md5) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) return;
    // A deque never moves its elements, so the views stay good.
    files_.push_back({paths_.emplace_back(path.string()), md5});
  }
  [[nodiscard]] std::span<const DataFile> all() const noexcept { return files_; }

 private:
  std::deque<std::string> paths_;
  std::vector<DataFile> files_;
};

/// Room for images, uint8 [count, 3, side, side], on huge pages where the kernel has some: to touch
/// small ones for the first time takes longer than to read the images into them.
inline at::Tensor empty_images(std::int64_t count, std::int64_t side) {
  at::Tensor images = at::empty({count, 3, side, side}, at::kByte);
  void* start = images.data_ptr();
  std::size_t space = images.nbytes();
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  if (std::align(kHugePage, kHugePage, start, space) != nullptr)
    madvise(start, space, MADV_HUGEPAGE);  // a wish: the images are the same without it
  return images;
}

/// Says so when a file that was read has fewer images than the official one: parts of a dataset are
/// useful, but nobody should take them for the whole.
inline void tell_if_partial(Context& context, const std::filesystem::path& file, std::int64_t found,
                            std::int64_t official) {
  if (found == official) return;
  context.log(LogLevel::warning, file.string() + ": " + std::to_string(found) +
                                     (found == 1 ? " image" : " images") +
                                     ", the official file has " + std::to_string(official));
}

inline std::string_view name_of(Split split) {
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

/// Throws ParameterError when `dataset` has no such split.
inline void check_split(const Dataset& dataset, std::string_view name, Split split) {
  std::string known;
  for (const Split each : dataset.splits()) {
    if (each == split) return;
    known += (known.empty() ? "" : ", ") + std::string(name_of(each));
  }
  throw ParameterError(std::string(name) + " has no split `" + std::string(name_of(split)) +
                       "`, it has " + known);
}

}  // namespace backstop::files
