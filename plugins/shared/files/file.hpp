// Opens and reads dataset files, which may be hostile: only regular files are opened, so nothing
// blocks, and every read either fills the whole buffer or throws.
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

/// Throws EnvironmentError with the message "FILE: PROBLEM" and a hint on what to do about it.
[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& problem,
                         const std::string& hint);

/// How error messages describe a file.
struct Kind {
  std::string what;     ///< "a batch file"
  std::string missing;  ///< the hint when the file does not exist
  std::string broken;   ///< the hint when its content is wrong
};

class File {
 public:
  /// Throws EnvironmentError when the file is missing, empty, unreadable or not a regular file.
  File(const std::filesystem::path& path, Kind kind);
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  ~File();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] const Kind& kind() const noexcept { return kind_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

  /// Reads `size` bytes starting at `offset`. Throws EnvironmentError when there are fewer.
  void read(std::uint64_t offset, void* to, std::size_t size) const;
  /// Fills `parts` (at most 1024) one after the other, and overwrites their addresses and lengths.
  void read(std::uint64_t offset, std::span<iovec> parts) const;
  /// Throws EnvironmentError about this file, with the hint for a broken one.
  [[noreturn]] void refuse(const std::string& problem) const;

 private:
  std::filesystem::path path_;
  Kind kind_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// The first of `root` and its subfolders `inner` that holds one of the files `names`, readable or
/// not; empty when none does.
std::filesystem::path find_folder(const std::filesystem::path& root,
                                  std::initializer_list<std::string_view> inner,
                                  std::initializer_list<std::string_view> names);

/// `text` made safe for a message: control and non-ASCII bytes become question marks, and anything
/// after 60 bytes is cut off.
std::string printable(std::string_view text);

}  // namespace backstop::files
