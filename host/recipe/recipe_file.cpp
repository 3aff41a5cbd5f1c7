#include "host/recipe/recipe_file.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/stat.h>

#include "host/base/error.hpp"

namespace backstop::recipe {
namespace {

class Source {
 public:
  explicit Source(const std::string& file)
      : file_(file),
        // Without O_NONBLOCK, opening a pipe would wait until somebody writes to it.
        descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {
    struct stat status {};
    if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) fail(errno);
    pipe_ = S_ISFIFO(status.st_mode);
    if (S_ISDIR(status.st_mode)) fail("it is a folder");
    if (!S_ISREG(status.st_mode) && !pipe_ && ::isatty(descriptor_) == 0)
      fail("it is a device, not a file");
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  std::string read(std::size_t most) {
    std::string text;
    std::array<char, 65536> block{};
    while (text.size() < most) {
      const ssize_t got =
          ::read(descriptor_, block.data(), std::min(block.size(), most - text.size()));
      if (got == 0) break;
      if (got > 0)
        text.append(block.data(), static_cast<std::size_t>(got));
      else if (errno == EAGAIN)
        wait();
      else if (errno != EINTR)
        fail(errno);
    }
    if (pipe_ && text.empty()) fail("it is a pipe that nothing was written to");
    return text;
  }

 private:
  [[noreturn]] void fail(const std::string& why) {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("cannot read recipe {}: {}", file_, why));
  }
  [[noreturn]] void fail(int error) { fail(std::generic_category().message(error)); }

  void wait() const {
    pollfd watched{descriptor_, POLLIN, 0};
    (void)::poll(&watched, 1, -1);
  }

  const std::string& file_;
  int descriptor_;
  bool pipe_ = false;
};

}  // namespace

std::string read_recipe(const std::string& file) {
  return Source(file).read(kLongestRecipe + 1);
}

}  // namespace backstop::recipe
