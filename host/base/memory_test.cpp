#include "host/base/memory.hpp"

#include <fstream>

#include <unistd.h>

#include <gtest/gtest.h>

namespace backstop::base {
namespace {

namespace fs = std::filesystem;

/// A root of its own with /proc/meminfo of 1,000 kB available, and 200 kB of swap.
class Memory : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("memory-" + std::to_string(::getpid()));
    write("proc/meminfo",
          "MemTotal: 9000 kB\nMemAvailable:    1000 kB\nSwapTotal: 300 kB\nSwapFree: 200 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const fs::path& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void write_group(const fs::path& group, const std::string& limit, const std::string& used) const {
    write("sys/fs/cgroup" / group / "memory.max", limit + "\n");
    write("sys/fs/cgroup" / group / "memory.current", used + "\n");
  }
  [[nodiscard]] std::int64_t bytes() const { return available_memory(root_).bytes; }

  fs::path root_;
};

constexpr std::int64_t kKiB = 1024;

TEST_F(Memory, IsWhatTheMachineHasAvailable) {
  EXPECT_EQ(bytes(), 1200 * kKiB);
  EXPECT_EQ(available_memory(root_).where, "are available on this machine");
}

TEST_F(Memory, IsWhatTheTightestControlGroupLeaves) {
  write("proc/self/cgroup", "0::/outer/inner\n");
  write_group("outer/inner", "max", "5000");
  write_group("outer", "300000", "100000");
  EXPECT_EQ(bytes(), 200000 + 200 * kKiB) << "swap is not limited";
  EXPECT_EQ(available_memory(root_).where, "are left below the memory limit of the control group");
  write("sys/fs/cgroup/outer/memory.swap.max", "1000\n");
  write("sys/fs/cgroup/outer/memory.swap.current", "0\n");
  EXPECT_EQ(bytes(), 201000);
  write("sys/fs/cgroup/outer/memory.stat",
        "anon 7\nfile 9000\ninactive_file 500\nactive_file 30\n");
  EXPECT_EQ(bytes(), 201530) << "the kernel takes its caches back";
  write_group("outer/inner", "60000", "70000");
  write("sys/fs/cgroup/outer/inner/memory.swap.max", "300\n");
  write("sys/fs/cgroup/outer/inner/memory.swap.current", "0\n");
  EXPECT_EQ(bytes(), 300) << "only its swap";
}

TEST_F(Memory, IsLimitedByTheGroupAtTheRootOfAContainer) {
  write("proc/self/cgroup", "0::/\n");
  write_group("", "300000", "100000");
  EXPECT_EQ(bytes(), 200000 + 200 * kKiB);
}

TEST_F(Memory, ALimitThatCannotBeReadDoesNotCount) {
  fs::remove_all(root_);
  EXPECT_GT(bytes(), std::int64_t{1} << 60);
  EXPECT_GT(available_memory().bytes, 1000000);
}

}  // namespace
}  // namespace backstop::base
