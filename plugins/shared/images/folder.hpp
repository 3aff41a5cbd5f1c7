// Lists folders, with one system call per entry, and reads files; every failure says what is wrong.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace backstop::images {

/// Tells whether a file has changed without reading it.
struct Stamp {
  std::int64_t size = 0;
  std::int64_t modified = 0;  ///< nanoseconds
  std::int64_t changed = 0;   ///< nanoseconds; no program can set it back
  bool operator==(const Stamp&) const = default;
};

struct Entry {
  std::string name;
  bool is_folder = false;
  Stamp stamp;
};

/// Limits in bytes, of an image and of a text: a list of lines takes up to 40 times its text.
inline constexpr std::int64_t kMaximumFile = 128 << 20, kMaximumText = 8 << 20;

/// The entries of a folder, sorted by name; those that start with a dot have no stamp. Symbolic
/// links are followed. Throws EnvironmentError for a folder or an entry that cannot be read, and
/// for an entry that is neither a file nor a folder.
std::vector<Entry> list_folder(const std::filesystem::path& folder);

[[nodiscard]] bool is_folder(const std::filesystem::path& path);
[[nodiscard]] bool is_file(const std::filesystem::path& path);

/// The bytes of a file. Throws EnvironmentError when it cannot be read, has more than `most`
/// bytes, or no longer has the `expected` stamp.
std::vector<std::uint8_t> read_file(const std::filesystem::path& file,
                                    const Stamp* expected = nullptr,
                                    std::int64_t most = kMaximumFile);

struct Line {
  std::int64_t number = 0;  ///< from 1
  std::string_view text;    ///< without its line ending
};

/// The lines of a text, which may end with LF or CR LF. A UTF-8 byte order mark at the start and
/// empty lines at the end are left out.
std::vector<Line> lines_of(std::string_view text);
/// The fields of a line: one more than there are separators.
std::vector<std::string_view> fields_of(std::string_view line, char separator);

/// A text file of at most kMaximumText bytes in memory.
class TextFile {
 public:
  explicit TextFile(const std::filesystem::path& file)
      : bytes_(read_file(file, nullptr, kMaximumText)) {}
  [[nodiscard]] std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }

 private:
  std::vector<std::uint8_t> bytes_;
};

}  // namespace backstop::images
