#include "host/base/file_lock.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "host/base/error.hpp"
#include "host/base/interrupt.hpp"
#include "host/base/lock_state.hpp"

namespace backstop::base {

namespace fs = std::filesystem;

namespace {

/// The descriptors of this process's locks.
class Held {
 public:
  static Held& instance() {
    static Held& held = *new Held;
    return held;
  }
  void add(int descriptor) {
    const std::lock_guard guard(mutex_);
    descriptors_.insert(descriptor);
  }
  /// Whether it was there: it is not in a child.
  bool remove(int descriptor) {
    const std::lock_guard guard(mutex_);
    return descriptors_.erase(descriptor) > 0;
  }

 private:
  /// A lock would live on with a child that a plugin has left. The child gives its copies up.
  Held() {
    ::pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                     [] {
                       for (const int descriptor : instance().descriptors_) ::close(descriptor);
                       instance().descriptors_.clear();
                       instance().mutex_.unlock();
                     });
  }
  std::mutex mutex_;
  std::set<int> descriptors_;
};

int open_lock(const fs::path& file) {
  constexpr int kFlags = O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  const int descriptor = ::open(file.c_str(), O_RDWR | kFlags, 0666);
  if (descriptor >= 0) return descriptor;
  const int error = errno;
  // Another user's file can be locked all the same.
  const int readable = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (readable >= 0) return readable;
  throw HostError(
      ExitCode::environment,
      fmt::format("cannot write {}: {}", file.string(), std::generic_category().message(error)),
      "choose another folder with --out");
}

/// Whether the file is still the one behind the descriptor, which an earlier holder removes.
bool is_still_there(const fs::path& file, int descriptor) {
  struct stat opened {
  }, named{};
  return ::fstat(descriptor, &opened) == 0 && ::stat(file.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

void write_holder(int descriptor) {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const std::string text = fmt::format("process {} on {}\n", ::getpid(), host.data());
  // It is there to be shown; without it the lock is the same.
  if (::ftruncate(descriptor, 0) == 0) (void)!::pwrite(descriptor, text.data(), text.size(), 0);
}

}  // namespace

std::optional<FileLock> FileLock::try_lock(const fs::path& file) {
  for (;;) {
    const int descriptor = open_lock(file);
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      if (error != EWOULDBLOCK && error != EINTR) return FileLock(file, descriptor, false);
      ::close(descriptor);
      if (error == EWOULDBLOCK) return std::nullopt;
    } else if (is_still_there(file, descriptor)) {
      write_holder(descriptor);
      return FileLock(file, descriptor, true);
    } else {
      ::close(descriptor);
    }
  }
}

FileLock FileLock::lock(const fs::path& file,
                        const std::function<void(const std::string& holder)>& wait) {
  constexpr auto kPause = std::chrono::milliseconds(50), kMoment = std::chrono::milliseconds(500);
  auto waited = std::chrono::milliseconds(0);
  for (;;) {
    if (std::optional<FileLock> lock = try_lock(file)) return std::move(*lock);
    if (waited == kMoment) wait(lock_holder(file));
    stop_if_interrupted();
    std::this_thread::sleep_for(kPause);
    waited += kPause;
  }
}

FileLock::FileLock(fs::path file, int descriptor, bool supported)
    : file_(std::move(file)), descriptor_(descriptor), supported_(supported) {
  Held::instance().add(descriptor_);
}

FileLock::FileLock(FileLock&& other) noexcept
    : file_(std::move(other.file_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      supported_(other.supported_) {}

FileLock::~FileLock() {
  if (descriptor_ < 0 || !Held::instance().remove(descriptor_)) return;
  // While it is still locked: who waits for it looks whether the file is still there.
  ::unlink(file_.c_str());
  ::close(descriptor_);
}

}  // namespace backstop::base
