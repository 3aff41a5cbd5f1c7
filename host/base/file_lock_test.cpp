#include "host/base/file_lock.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <thread>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/interrupt.hpp"
#include "host/base/lock_state.hpp"

namespace {

bool file_system_has_locks = true;

}  // namespace

/// In the place of the C library's, for a file system without locks.
extern "C" int flock(int descriptor, int operation) noexcept {
  if (file_system_has_locks) return static_cast<int>(::syscall(SYS_flock, descriptor, operation));
  errno = ENOLCK;
  return -1;
}

namespace backstop::base {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FileLockTest : public testing::Test {
 protected:
  FileLockTest() {
    std::string pattern = testing::TempDir() + "backstop-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    file_ = folder_ / ".lock";
  }
  ~FileLockTest() override { fs::remove_all(folder_); }

  /// Another process that holds the lock until it is killed.
  [[nodiscard]] pid_t holder() const {
    const pid_t child = ::fork();
    if (child == 0) {
      const FileLock lock = FileLock::lock(file_, [](const std::string&) {});
      for (;;) ::pause();
    }
    while (FileLock::try_lock(file_)) std::this_thread::yield();
    return child;
  }

  fs::path folder_, file_;
};

TEST_F(FileLockTest, KeepsOthersOutAndLeavesNothing) {
  {
    const auto lock = FileLock::try_lock(file_);
    ASSERT_TRUE(lock);
    EXPECT_TRUE(lock->supported());
    EXPECT_FALSE(FileLock::try_lock(file_)) << "another descriptor, as another process has";
    EXPECT_THAT(read_file(file_), HasSubstr("process " + std::to_string(::getpid()) + " on "));
  }
  EXPECT_FALSE(fs::exists(file_));
  EXPECT_TRUE(FileLock::try_lock(file_));
}

TEST_F(FileLockTest, EndsWithAKilledHolder) {
  const pid_t child = holder();
  std::string name;
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    ::kill(child, SIGKILL);
  });
  const FileLock lock = FileLock::lock(file_, [&](const std::string& text) { name = text; });
  killer.join();
  ::waitpid(child, nullptr, 0);
  EXPECT_THAT(name, HasSubstr("process " + std::to_string(child)));
}

TEST_F(FileLockTest, EndsWithItsHolderThoughAChildLivesOn) {
  int child_of_holder[2];
  ASSERT_EQ(::pipe(child_of_holder), 0);
  const pid_t holder = ::fork();
  if (holder == 0) {
    const FileLock lock = FileLock::lock(file_, [](const std::string&) {});
    if (::fork() == 0) {
      const pid_t child = ::getpid();  // told from here: what fork() has to do in a child is done
      (void)!::write(child_of_holder[1], &child, sizeof child);
    }
    for (;;) ::pause();
  }
  pid_t child = 0;
  ASSERT_EQ(::read(child_of_holder[0], &child, sizeof child), ssize_t{sizeof child});
  EXPECT_FALSE(FileLock::try_lock(file_));
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  EXPECT_EQ(::kill(child, 0), 0);
  EXPECT_TRUE(FileLock::try_lock(file_));
  ::kill(child, SIGKILL);
}

TEST_F(FileLockTest, WaitingEndsWithCtrlC) {
  const pid_t child = holder();
  const std::atomic<int> signal_number{SIGINT};
  watch_for_interrupt(&signal_number);
  EXPECT_THROW((void)FileLock::lock(file_, [](const std::string&) {}), Cancelled);
  watch_for_interrupt(nullptr);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_F(FileLockTest, OnlyOneOfManyHoldsIt) {
  std::atomic<int> inside{0}, most{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      for (int turn = 0; turn < 5; ++turn) {
        const FileLock lock = FileLock::lock(file_, [](const std::string&) {});
        most = std::max(most.load(), ++inside);
        std::this_thread::yield();
        --inside;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
}

TEST_F(FileLockTest, SaysWhenTheFileSystemHasNoLocks) {
  file_system_has_locks = false;
  {
    const auto lock = FileLock::try_lock(file_);
    ASSERT_TRUE(lock);
    EXPECT_FALSE(lock->supported());
    EXPECT_TRUE(FileLock::try_lock(file_)) << "nobody is kept out";
  }
  file_system_has_locks = true;
  EXPECT_FALSE(fs::exists(file_));
}

TEST_F(FileLockTest, NamesTheFileThatItCannotMake) {
  try {
    (void)FileLock::try_lock(folder_ / "none" / ".lock");
    FAIL();
  } catch (const HostError& e) {
    EXPECT_THAT(e.what(), HasSubstr((folder_ / "none" / ".lock").string()));
  }
}

TEST_F(FileLockTest, ItsStateCanBeAskedForWithoutTakingIt) {
  EXPECT_EQ(lock_state(file_), LockState::free);
  EXPECT_FALSE(fs::exists(file_));
  const pid_t child = holder();
  EXPECT_EQ(lock_state(file_), LockState::held);
  EXPECT_THAT(lock_holder(file_), HasSubstr(std::to_string(child)));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(lock_state(file_), LockState::free);
  EXPECT_TRUE(fs::exists(file_)) << "looking changes nothing";
  file_system_has_locks = false;
  EXPECT_EQ(lock_state(file_), LockState::unknown);
  file_system_has_locks = true;
}

}  // namespace
}  // namespace backstop::base
