#include "file.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "backstop/error.hpp"

namespace backstop::files {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCheckPermissions = "check the file and its permissions";

std::string reason(int error) {
  return std::generic_category().message(error);
}

}  // namespace

void refuse(const fs::path& file, const std::string& problem, const std::string& hint) {
  throw EnvironmentError(file.string() + ": " + problem, hint);
}

File::File(const fs::path& path, Kind kind) : path_(path), kind_(std::move(kind)) {
  // Without O_NONBLOCK, opening a pipe would wait until somebody writes to it.
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor_ < 0) {
    if (errno == ENOENT || errno == ENOTDIR) files::refuse(path_, "is missing", kind_.missing);
    files::refuse(path_, "cannot be read: " + reason(errno), kCheckPermissions);
  }
  struct stat status {};
  const int failed = fstat(descriptor_, &status);
  const auto give_up = [&](const std::string& problem, const std::string& hint) {
    close(descriptor_);
    files::refuse(path_, problem, hint);
  };
  if (failed != 0) give_up("cannot be read: " + reason(errno), kCheckPermissions);
  if (S_ISDIR(status.st_mode)) give_up("is a folder, expected " + kind_.what, kind_.broken);
  if (!S_ISREG(status.st_mode))
    give_up("is not a regular file, expected " + kind_.what, kind_.broken);
  if (status.st_size == 0) give_up("is empty, expected " + kind_.what, kind_.broken);
  size_ = static_cast<std::uint64_t>(status.st_size);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      kind_(std::move(other.kind_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

void File::read(std::uint64_t offset, void* to, std::size_t size) const {
  iovec part{to, size};
  read(offset, {&part, 1});
}

void File::read(std::uint64_t offset, std::span<iovec> parts) const {
  while (!parts.empty()) {
    if (parts.front().iov_len == 0) {
      parts = parts.subspan(1);
      continue;
    }
    const ssize_t got = preadv(descriptor_, parts.data(), static_cast<int>(parts.size()),
                               static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      files::refuse(path_, "cannot be read: " + reason(errno),
                    "check the file and the disk that holds it");
    if (got == 0)
      refuse("ends after " + std::to_string(offset) + " bytes, but had " + std::to_string(size_) +
             " when it was opened");
    offset += static_cast<std::uint64_t>(got);
    for (auto left = static_cast<std::size_t>(got); left > 0;) {
      iovec& part = parts.front();
      const std::size_t taken = std::min(left, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + taken;
      part.iov_len -= taken;
      left -= taken;
      if (part.iov_len == 0) parts = parts.subspan(1);
    }
  }
}

void File::refuse(const std::string& problem) const {
  files::refuse(path_, problem, kind_.broken);
}

fs::path find_folder(const fs::path& root, std::initializer_list<std::string_view> inner,
                     std::initializer_list<std::string_view> names) {
  const auto holds_one = [&](const fs::path& folder) {
    return std::ranges::any_of(names, [&](std::string_view name) {
      std::error_code ignored;
      return fs::exists(fs::symlink_status(folder / name, ignored));
    });
  };
  if (holds_one(root)) return root;
  for (const std::string_view name : inner)
    if (holds_one(root / name)) return root / name;
  return {};
}

std::string printable(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::string shown(text.substr(0, kLongest));
  std::ranges::replace_if(
      shown, [](char c) { return c < ' ' || c > '~'; }, '?');
  if (text.size() > kLongest) shown += "...";
  return shown;
}

}  // namespace backstop::files
