// A lock that ends with its holder, however that ends: who holds it lives.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace backstop::base {

/// An exclusive flock on a file that exists for this alone: it keeps other processes out, on the
/// same file system also those of other containers and, over NFS, of other hosts. The file holds a
/// line about its holder, and the lock's end removes it.
class FileLock {
 public:
  /// Empty when somebody else holds it. Throws HostError(environment) when there can be no such
  /// file.
  static std::optional<FileLock> try_lock(const std::filesystem::path& file);
  /// Waits for the other's end. `wait` is called once, when that takes longer than a moment, with
  /// the line about the holder. Throws Cancelled after Ctrl-C.
  static FileLock lock(const std::filesystem::path& file,
                       const std::function<void(const std::string& holder)>& wait);

  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();

  /// False on a file system without locks: then nobody is kept out, and nobody's death is seen.
  [[nodiscard]] bool supported() const { return supported_; }

 private:
  FileLock(std::filesystem::path file, int descriptor, bool supported);
  std::filesystem::path file_;
  int descriptor_;
  bool supported_;
};

}  // namespace backstop::base
