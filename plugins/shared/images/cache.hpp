// The cache file of a dataset's decoded images: a header of one page, then all training images,
// then all test images, uint8 [3, side, side] each. It is read into memory, where no other program
// can change it any more; only what would take more than half of the machine's memory is mapped
// instead, so that a dataset may be larger than memory. Labels and names are not in it: they come
// from the folder's listing, whose hash is the file's name.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "sha256.hpp"

namespace backstop::images {

/// The images that a cache file must hold.
struct CacheKey {
  Digest listing{};  ///< of the list of files and everything else that decides the pixels
  std::int64_t train = 0, test = 0;  ///< number of images
  std::int64_t side = 0;             ///< pixels

  [[nodiscard]] std::int64_t image_bytes() const { return 3 * side * side; }
  [[nodiscard]] std::int64_t file_bytes() const;
};

/// What is known about the images once they have been decoded.
struct Summary {
  std::array<std::uint64_t, 3> sum{};      ///< of the training images' pixels, per channel
  std::array<std::uint64_t, 3> squares{};  ///< of those pixels squared
  Digest train{}, test{};                  ///< of pixels and labels

  bool operator==(const Summary&) const = default;
};

inline constexpr std::int64_t kCacheHeader = 4096;
using CacheHeader = std::array<std::uint8_t, kCacheHeader>;

CacheHeader write_header(const CacheKey& key, const Summary& summary);

/// The summary, or the reason why `header`, the first bytes of a file of `file_bytes` bytes, does
/// not belong to a cache of `key`.
struct HeaderResult {
  std::optional<Summary> summary;
  std::string problem;
};
HeaderResult read_header(std::span<const std::uint8_t> header, std::int64_t file_bytes,
                         const CacheKey& key);

/// An open cache file.
class Cache {
 public:
  /// Null with `problem` set when the file is not a complete cache of `key`, and null with `problem`
  /// empty when it does not exist. Throws EnvironmentError when it cannot be read.
  static std::shared_ptr<Cache> open(const std::filesystem::path& file, const CacheKey& key,
                                     std::string& problem);
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  ~Cache();

  [[nodiscard]] const Summary& summary() const { return summary_; }
  /// Reads image `position`, counting through both splits, and returns its pixels; none when the
  /// file has become too short. To be called for each image, once. [any thread]
  [[nodiscard]] std::span<const std::uint8_t> read(std::int64_t position);
  /// All images that were read, the training set first. Read-only.
  [[nodiscard]] const std::uint8_t* images() const { return bytes_ + kCacheHeader; }

 private:
  Cache(int descriptor, const CacheKey& key, const Summary& summary);

  int descriptor_;
  CacheKey key_;
  Summary summary_;
  std::uint8_t* bytes_ = nullptr;  ///< laid out like the file
  bool mapped_ = false;            ///< from the file
};

/// Writes a cache file under a temporary name; finish() renames it, and without finish() it is
/// deleted. The temporary file is locked until then, so that remove_abandoned() knows whether its
/// maker is alive. Throws EnvironmentError for a full disk and the like.
class CacheWriter {
 public:
  /// Creates the folder and reserves the disk space.
  CacheWriter(std::filesystem::path file, const CacheKey& key);
  CacheWriter(const CacheWriter&) = delete;
  CacheWriter& operator=(const CacheWriter&) = delete;
  ~CacheWriter();

  /// Writes image `position`, counting through both splits. [any thread]
  void write(std::int64_t position, std::span<const std::uint8_t> pixels);
  void finish(const Summary& summary);

 private:
  void create();
  void put(std::int64_t at, std::span<const std::uint8_t> bytes);
  [[noreturn]] void fail(const std::string& what, int error) const;

  std::filesystem::path file_;
  std::string temporary_;  ///< empty once renamed
  CacheKey key_;
  int descriptor_ = -1;
};

/// Removes the temporary files of CacheWriters whose process was killed.
void remove_abandoned(const std::filesystem::path& folder);

/// Where cache files are kept by default: backstop/datasets in $XDG_CACHE_HOME, or else in
/// ~/.cache. Throws EnvironmentError when neither is known.
std::filesystem::path default_cache_folder();

}  // namespace backstop::images
