// Files of datasets, opened and read as files that nobody vouches for: only regular files are
// opened, so nothing blocks, and every read gives all the bytes that were asked for or throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include <sys/uio.h>

namespace backstop::files {

/// Throws EnvironmentError: "FILE: PROBLEM", and what to do about it.
[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& problem,
                         const std::string& hint);

/// What errors say of a file.
struct Kind {
  std::string what;     ///< "a batch file"
  std::string missing;  ///< the hint when it is not there
  std::string broken;   ///< the hint when it is not what it should be
};

class File {
 public:
  /// Throws EnvironmentError when it is missing, empty, not a regular file or cannot be read.
  File(const std::filesystem::path& path, Kind kind);
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  ~File();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] const Kind& kind() const noexcept { return kind_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

  /// Reads `size` bytes from `offset` on. Throws EnvironmentError when there are fewer.
  void read(std::uint64_t offset, void* to, std::size_t size) const;
  /// Fills `parts`, at most 1024, one after the other; what they say is overwritten.
  void read(std::uint64_t offset, std::span<iovec> parts) const;
  /// Throws EnvironmentError: this file has `problem`, with the hint for broken files.
  [[noreturn]] void refuse(const std::string& problem) const;

 private:
  std::filesystem::path path_;
  Kind kind_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// The first of `root` and the folders `inner` of it that holds one of the files `names`, be they
/// readable or not; empty when none does.
std::filesystem::path find_folder(const std::filesystem::path& root,
                                  std::initializer_list<std::string_view> inner,
                                  std::initializer_list<std::string_view> names);

/// `text` as a message may show it: control and non-ASCII bytes as question marks, 60 bytes at
/// most.
std::string printable(std::string_view text);

}  // namespace backstop::files
