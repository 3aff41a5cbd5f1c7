#include "folder.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <system_error>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "formats.hpp"

namespace backstop::images {
namespace {

constexpr const char* kCheckAccess = "check the path and its permissions";

[[noreturn]] void refuse_access(const std::filesystem::path& path, int error) {
  refuse(path.string(), "cannot be read: " + std::generic_category().message(error), kCheckAccess);
}

Stamp stamp_of(const struct stat& status) {
  const auto nanoseconds = [](const timespec& time) {
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  return {status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

struct CloseFolder {
  void operator()(DIR* folder) const noexcept { closedir(folder); }
};

class File {
 public:
  explicit File(const std::filesystem::path& path)
      // Does not block if the file has been replaced by a pipe since it was listed.
      : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (descriptor_ < 0) refuse_access(path, errno);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { close(descriptor_); }
  [[nodiscard]] int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

mode_t mode_of(const std::filesystem::path& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 ? status.st_mode : 0;
}

}  // namespace

bool is_folder(const std::filesystem::path& path) {
  return S_ISDIR(mode_of(path));
}
bool is_file(const std::filesystem::path& path) {
  return S_ISREG(mode_of(path));
}

std::vector<Entry> list_folder(const std::filesystem::path& folder) {
  const std::unique_ptr<DIR, CloseFolder> stream(opendir(folder.c_str()));
  if (!stream) refuse_access(folder, errno);
  std::vector<Entry> entries;
  for (;;) {
    errno = 0;
    const dirent* found = readdir(stream.get());
    if (!found) {
      if (errno != 0) refuse_access(folder, errno);
      break;
    }
    Entry entry{found->d_name, false, {}};
    if (entry.name == "." || entry.name == "..") continue;
    if (entry.name.front() != '.') {
      struct stat status {};
      if (fstatat(dirfd(stream.get()), found->d_name, &status, 0) != 0)
        refuse_access(folder / entry.name, errno);
      entry.is_folder = S_ISDIR(status.st_mode);
      if (!entry.is_folder && !S_ISREG(status.st_mode))
        refuse((folder / entry.name).string(), "is neither a file nor a folder", "remove it");
      entry.stamp = stamp_of(status);
    }
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return entries;
}

std::vector<std::uint8_t> read_file(const std::filesystem::path& path, const Stamp* expected,
                                    std::int64_t most) {
  const File file(path);
  struct stat status {};
  if (fstat(file.descriptor(), &status) != 0) refuse_access(path, errno);
  if (!S_ISREG(status.st_mode)) refuse(path.string(), "is not a regular file", kCheckAccess);
  const Stamp found = stamp_of(status);
  const auto refuse_change = [&] {
    refuse(path.string(), "changed while the dataset was being read",
           "wait until the folder is complete, then run again");
  };
  if (expected && found != *expected) refuse_change();
  if (found.size > most)
    refuse(path.string(),
           "has " + std::to_string(found.size) + " bytes, expected at most " + std::to_string(most),
           "is this the right file?");
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(found.size));
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t got = read(file.descriptor(), bytes.data() + at, bytes.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse_access(path, errno);
    if (got == 0) refuse_change();
    at += static_cast<std::size_t>(got);
  }
  return bytes;
}

std::vector<Line> lines_of(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  std::vector<Line> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back({std::ssize(lines) + 1, line});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  while (!lines.empty() && lines.back().text.empty()) lines.pop_back();
  return lines;
}

std::vector<std::string_view> fields_of(std::string_view line, char separator) {
  std::vector<std::string_view> fields;
  for (std::size_t end = 0; (end = line.find(separator)) != std::string_view::npos;) {
    fields.push_back(line.substr(0, end));
    line.remove_prefix(end + 1);
  }
  fields.push_back(line);
  return fields;
}

}  // namespace backstop::images
