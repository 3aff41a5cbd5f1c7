// A folder that exists as long as a test, and copies of plugins in it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace backstop::catalog {

class TestFolder {
 public:
  TestFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "backstop-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    path_ = std::filesystem::canonical(pattern);
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  [[nodiscard]] std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }

  /// Copies `file` to `name`, which may include folders.
  std::filesystem::path copy(const std::filesystem::path& file, const std::string& name) const {
    const std::filesystem::path to = path_ / name;
    std::filesystem::create_directories(to.parent_path());
    std::filesystem::copy_file(file, to);
    return to;
  }

 private:
  std::filesystem::path path_;
};

inline const std::filesystem::path kGoodPlugin = BACKSTOP_GOOD_PLUGIN;
inline const std::filesystem::path kBadPlugins = BACKSTOP_BAD_PLUGINS;

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

}  // namespace backstop::catalog
