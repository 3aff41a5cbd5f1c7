// A file that is read at any place, and may be hostile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace backstop::engine {

/// An open regular file. All functions throw HostError(environment) that names the file; Ctrl-C ends
/// reading.
class InputFile {
 public:
  /// Opens without waiting: a FIFO, a device or a folder is refused at once.
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

  /// Refuses when the file ends before `offset` + `count`.
  void read(std::uint64_t offset, void* to, std::uint64_t count) const;
  [[nodiscard]] std::string text(std::uint64_t offset, std::uint64_t count) const;

  /// Throws "PATH: why".
  [[noreturn]] void refuse(const std::string& why, const std::string& hint) const;

 private:
  [[noreturn]] void cannot_read(const std::string& why, const std::string& hint) const;

  std::filesystem::path path_;
  int descriptor_;
  std::uint64_t size_ = 0;
};

/// What to do about a file that is not as its format demands.
inline constexpr const char* kDamaged =
    "the file is damaged or was cut short: compare its size with that at its source, and fetch it "
    "again";

/// A name from a file, for a message: shortened, printable, between backticks.
std::string shown(const std::string& name);

}  // namespace backstop::engine
