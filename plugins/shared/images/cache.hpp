// The file in which the decoded images of a folder are kept: a header of one page, then all
// training images, then all test images, uint8 [3, side, side] each. It is mapped, not read: a
// dataset larger than memory works, and opening it takes no time. Labels and names come from the
// folder's listing, which the file is named by.
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

/// What a cache file has to be of.
struct CacheKey {
  Digest listing{};  ///< of the files and of all that decides the pixels
  std::int64_t train = 0;
  std::int64_t test = 0;  ///< images
  std::int64_t side = 0;  ///< pixels

  [[nodiscard]] std::int64_t image_bytes() const { return 3 * side * side; }
  [[nodiscard]] std::int64_t file_bytes() const;
};

/// What is known of the images once they are decoded.
struct Summary {
  std::array<std::uint64_t, 3> sum{};      ///< of the training images' pixels, by channel
  std::array<std::uint64_t, 3> squares{};  ///< of their squares
  Digest train{}, test{};                  ///< of pixels and labels

  bool operator==(const Summary&) const = default;
};

inline constexpr std::int64_t kCacheHeader = 4096;
using CacheHeader = std::array<std::uint8_t, kCacheHeader>;

CacheHeader write_header(const CacheKey& key, const Summary& summary);

/// The summary, or why `header`, the first bytes of a file of `file_bytes` bytes, is not that of a
/// cache of `key`.
struct HeaderResult {
  std::optional<Summary> summary;
  std::string problem;
};
HeaderResult read_header(std::span<const std::uint8_t> header, std::int64_t file_bytes,
                         const CacheKey& key);

/// A mapped cache file.
class Cache {
 public:
  /// The mapped file; null, with `problem` set, when it is not a whole cache of `key`, and with
  /// `problem` empty when there is none. Throws EnvironmentError for what cannot be read.
  static std::shared_ptr<const Cache> open(const std::filesystem::path& file, const CacheKey& key,
                                           std::string& problem);
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  ~Cache();

  [[nodiscard]] const Summary& summary() const { return summary_; }
  /// All images, the training set's first. Not to be written to.
  [[nodiscard]] const std::uint8_t* images() const { return bytes_ + kCacheHeader; }

 private:
  Cache(const std::uint8_t* bytes, std::size_t size, const Summary& summary)
      : bytes_(bytes), size_(size), summary_(summary) {}

  const std::uint8_t* bytes_;
  std::size_t size_;
  Summary summary_;
};

/// Writes a cache file under another name; finish() puts it in its place. Without it, nothing is
/// left. Throws EnvironmentError for a full disk and the like.
class CacheWriter {
 public:
  /// Makes the folder, and reserves the disk's space.
  CacheWriter(std::filesystem::path file, const CacheKey& key);
  CacheWriter(const CacheWriter&) = delete;
  CacheWriter& operator=(const CacheWriter&) = delete;
  ~CacheWriter();

  /// Image `position`, counted through both splits. [any thread]
  void write(std::int64_t position, std::span<const std::uint8_t> pixels);
  void finish(const Summary& summary);

 private:
  void put(std::int64_t at, std::span<const std::uint8_t> bytes);
  [[noreturn]] void fail(const std::string& what, int error) const;

  std::filesystem::path file_;
  std::string temporary_;  ///< empty once it is in its place
  CacheKey key_;
  int descriptor_ = -1;
};

/// Where cache files are kept unless told otherwise: backstop/datasets in $XDG_CACHE_HOME, or in
/// ~/.cache. Throws EnvironmentError when neither is known.
std::filesystem::path default_cache_folder();

}  // namespace backstop::images
