#include "host/base/files.hpp"

#include <cerrno>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/base/interrupt.hpp"

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

[[noreturn]] void cannot_read(const fs::path& path, const std::string& why) {
  throw HostError(ExitCode::environment, fmt::format("cannot read {}: {}", path.string(), why));
}

/// Opening a FIFO would wait for its writer, and a device may never end.
void require_regular_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) cannot_read(path, error.message());
  if (!fs::is_regular_file(status)) cannot_read(path, "not a regular file");
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
  // Not longer than the file's own name can be.
  const fs::path unfinished = path.parent_path() / (std::string(kUnfinishedFile) + unique_name());
  std::error_code error;
  errno = 0;
  std::ofstream stream(unfinished, std::ios::binary | std::ios::trunc);
  try {
    if (stream) write(stream);
  } catch (...) {
    fs::remove(unfinished, error);
    throw;
  }
  stream.close();
  if (!stream) {
    const int why = errno;
    fs::remove(unfinished, error);
    cannot_write(path, why);
  }
  fs::rename(unfinished, path, error);
  if (error) {
    const int why = error.value();
    fs::remove(unfinished, error);
    cannot_write(path, why);
  }
}

void write_file(const fs::path& path, std::string_view text) {
  write_file(path, [text](std::ostream& out) { out << text; });
}

void read_blocks(const fs::path& path, const std::function<void(std::string_view)>& take) {
  require_regular_file(path);
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) cannot_read(path, reason(errno));
  std::vector<char> block(std::size_t{1} << 20);
  while (stream) {
    stop_if_interrupted();
    stream.read(block.data(), static_cast<std::streamsize>(block.size()));
    if (stream.gcount() > 0) take({block.data(), static_cast<std::size_t>(stream.gcount())});
  }
  if (stream.bad()) cannot_read(path, reason(errno));
}

std::string read_file(const fs::path& path, std::uintmax_t most) {
  std::string text;
  read_blocks(path, [&](std::string_view block) {
    if (block.size() > most - text.size())
      cannot_read(path, fmt::format("it has more than {} bytes", most));
    text += block;
  });
  return text;
}

void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) cannot_write(path, errno);
  const int error = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // Some network file systems cannot sync a folder; they have nothing to lose there.
  if (error != 0 && error != EINVAL && error != ENOTSUP) cannot_write(path, error);
}

void sync_tree(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_directory() || entry.is_regular_file()) sync(entry.path());
  sync(folder);
}

std::string unique_name() {
  std::random_device random;  // the system's; each call gives 32 bits
  return fmt::format("{:08x}{:08x}", random(), random());
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
