// Folders, files and permissions for the tests of datasets.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include <unistd.h>

namespace backstop::files {

/// An empty folder that is deleted at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name =
        (std::filesystem::temp_directory_path() / "backstop-dataset-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("cannot create a temporary folder");
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write(const std::filesystem::path& file, const std::string& bytes) {
  // Some file systems wait for the disk when a file is truncated and rewritten.
  std::filesystem::remove(file);
  std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
}

inline std::string read(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// As long as this object lives, nobody can read `file`, not even a test that runs as root; the
/// other files in its folder stay readable.
class Unreadable {
 public:
  explicit Unreadable(const std::filesystem::path& file) : was_(geteuid()) {
    using std::filesystem::perms;
    constexpr uid_t kNobody = 65534;
    std::filesystem::permissions(file.parent_path(),
                                 perms::owner_all | perms::group_exec | perms::others_exec);
    for (const auto& neighbour : std::filesystem::directory_iterator(file.parent_path()))
      std::filesystem::permissions(neighbour,
                                   perms::owner_read | perms::group_read | perms::others_read);
    std::filesystem::permissions(file, perms::none);
    if (was_ == 0 && seteuid(kNobody) != 0)
      throw std::runtime_error("cannot give up root's privileges");
  }
  Unreadable(const Unreadable&) = delete;
  Unreadable& operator=(const Unreadable&) = delete;
  ~Unreadable() {
    if (seteuid(was_) != 0) std::abort();
  }

 private:
  uid_t was_;
};

}  // namespace backstop::files
