#include "host/base/lock_state.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

#include <sys/file.h>

namespace backstop::base {

namespace fs = std::filesystem;

LockState lock_state(const fs::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) return errno == ENOENT ? LockState::free : LockState::unknown;
  // Shared, so that nobody who only looks is taken for a holder; closing it ends it.
  const int error = ::flock(descriptor, LOCK_SH | LOCK_NB) == 0 ? 0 : errno;
  ::close(descriptor);
  if (error == 0) return LockState::free;
  return error == EWOULDBLOCK ? LockState::held : LockState::unknown;
}

std::string lock_holder(const fs::path& file) {
  std::array<char, 400> text{};
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return "another process";
  const ssize_t size = ::read(descriptor, text.data(), text.size());
  ::close(descriptor);
  const std::string line(text.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  return line.empty() ? "another process" : line.substr(0, line.find('\n'));
}

}  // namespace backstop::base
