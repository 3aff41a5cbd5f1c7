#include "host/engine/formats/input_file.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/stat.h>

#include "host/base/error.hpp"
#include "host/base/interrupt.hpp"
#include "host/base/text.hpp"

namespace backstop::engine {

InputFile::InputFile(std::filesystem::path path)
    // Without O_NONBLOCK, opening a FIFO would wait until somebody writes to it.
    : path_(std::move(path)),
      descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {
  constexpr const char* kHint = "give the path of a model's file";
  struct stat status {};
  try {
    if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0)
      cannot_read(std::generic_category().message(errno), kHint);
    if (S_ISDIR(status.st_mode)) cannot_read("it is a folder", kHint);
    if (!S_ISREG(status.st_mode)) cannot_read("it is not a regular file", kHint);
  } catch (...) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw;
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::~InputFile() {
  ::close(descriptor_);
}

void InputFile::read(std::uint64_t offset, void* to, std::uint64_t count) const {
  constexpr std::uint64_t kBlock = 1u << 20;
  auto* at = static_cast<char*>(to);
  while (count > 0) {
    base::stop_if_interrupted();
    const ssize_t got =
        ::pread(descriptor_, at, std::min(count, kBlock), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) cannot_read(std::generic_category().message(errno), {});
    if (got == 0) refuse("it ends early", kDamaged);
    at += got;
    offset += static_cast<std::uint64_t>(got);
    count -= static_cast<std::uint64_t>(got);
  }
}

std::string InputFile::text(std::uint64_t offset, std::uint64_t count) const {
  if (offset > size_ || count > size_ - offset) refuse("it ends early", kDamaged);
  std::string bytes(count, '\0');
  read(offset, bytes.data(), count);
  return bytes;
}

void InputFile::refuse(const std::string& why, const std::string& hint) const {
  throw base::HostError(base::ExitCode::environment, fmt::format("{}: {}", path_.string(), why),
                        hint);
}

void InputFile::cannot_read(const std::string& why, const std::string& hint) const {
  throw base::HostError(base::ExitCode::environment,
                        fmt::format("cannot read {}: {}", path_.string(), why), hint);
}

std::string shown(const std::string& name) {
  return base::ticked(base::printable(base::shortened(name)));
}

}  // namespace backstop::engine
