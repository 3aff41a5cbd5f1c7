#include "host/base/files.hpp"

#include <cerrno>
#include <iterator>
#include <system_error>
#include <utility>

#include <unistd.h>

#include <fmt/format.h>

#include "host/base/error.hpp"

namespace backstop::base {

namespace fs = std::filesystem;

namespace {

std::string reason(int error) {
  return std::generic_category().message(error != 0 ? error : EIO);
}

[[noreturn]] void cannot_write(const fs::path& path, int error) {
  throw HostError(ExitCode::environment,
                  fmt::format("cannot write {}: {}", path.string(), reason(error)),
                  "free some space or choose another folder with --out; finished work is kept");
}

}  // namespace

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw HostError(
        ExitCode::environment,
        fmt::format("cannot create the folder {}: {}", folder.string(), error.message()),
        "choose a folder that you may write to with --out");
}

void write_file(const fs::path& path, const std::function<void(std::ostream&)>& write) {
  const fs::path unfinished =
      path.parent_path() / fmt::format(".{}.tmp{}", path.filename().string(), ::getpid());
  errno = 0;
  std::ofstream stream(unfinished, std::ios::binary | std::ios::trunc);
  if (stream) write(stream);
  stream.close();
  if (!stream) {
    const int error = errno;
    std::error_code ignored;
    fs::remove(unfinished, ignored);
    cannot_write(path, error);
  }
  std::error_code error;
  fs::rename(unfinished, path, error);
  if (error) cannot_write(path, error.value());
}

void write_file(const fs::path& path, std::string_view text) {
  write_file(path, [text](std::ostream& out) { out << text; });
}

std::string read_file(const fs::path& path) {
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  if (!stream)
    throw HostError(ExitCode::environment,
                    fmt::format("cannot read {}: {}", path.string(), reason(errno)));
  return text;
}

void copy_file(const fs::path& from, const fs::path& to) {
  std::ifstream stream(from, std::ios::binary);
  if (!stream)
    throw HostError(ExitCode::environment,
                    fmt::format("cannot read {}: {}", from.string(), reason(errno)));
  write_file(to, [&](std::ostream& out) {
    if (stream.peek() != std::ifstream::traits_type::eof()) out << stream.rdbuf();
  });
}

LineFile::LineFile(fs::path path) : path_(std::move(path)), stream_(path_, std::ios::app) {
  if (!stream_) cannot_write(path_, errno);
}

void LineFile::write(std::string_view line) {
  errno = 0;
  stream_ << line << '\n' << std::flush;
  if (!stream_) cannot_write(path_, errno);
}

}  // namespace backstop::base
