// What the datasets with official files share apart from reading them: the list of their files with
// the published MD5s, memory for the images, and checks of what was asked for and found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
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

/// All images of a split, uint8 [N, C, H, W], and their labels, int64 [N].
struct Samples {
  at::Tensor images, labels;
};

/// The files of a dataset that exist on disk.
class DataFiles {
 public:
  /// Adds `path` to the files of `split` if it exists.
  void add(Split split, const std::filesystem::path& path, std::string_view md5) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) return;
    files_[split].push_back({path.string(), std::string(md5)});
  }
  /// What Dataset::files does.
  void name(Split split, FileSink& sink) const {
    const auto found = files_.find(split);
    if (found == files_.end()) return;
    for (const auto& file : found->second) sink.file(file.path, file.md5);
  }

 private:
  struct DataFile {
    std::string path, md5;
  };
  std::map<Split, std::vector<DataFile>> files_;
};

/// Memory for images, uint8 [count, 3, side, side], on huge pages where the kernel has some:
/// touching small pages for the first time takes longer than reading the images into them.
inline at::Tensor empty_images(std::int64_t count, std::int64_t side) {
  at::Tensor images = at::empty({count, 3, side, side}, at::kByte);
  void* start = images.data_ptr();
  std::size_t space = images.nbytes();
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  if (std::align(kHugePage, kHugePage, start, space) != nullptr)
    madvise(start, space, MADV_HUGEPAGE);  // only a hint, so a failure does not matter
  return images;
}

/// Warns when a file has fewer images than the official one: part of a dataset is useful, but
/// nobody should mistake it for the whole.
inline void warn_if_partial(Services& services, const std::filesystem::path& file,
                            std::int64_t found, std::int64_t official) {
  if (found == official) return;
  services.log(LogLevel::warning, file.string() + ": has " + std::to_string(found) +
                                      (found == 1 ? " image" : " images") +
                                      "; the official file has " + std::to_string(official));
}

/// Throws ParameterError when `dataset` has no such split.
inline void check_split(const Dataset& dataset, std::string_view name, Split split) {
  std::string known;
  for (const Split candidate : dataset.splits()) {
    if (candidate == split) return;
    known += (known.empty() ? "" : ", ") + std::string(to_string(candidate));
  }
  throw ParameterError(std::string(name) + " has no split `" + std::string(to_string(split)) +
                       "`; it has " + known);
}

}  // namespace backstop::files
