#include "host/base/files.hpp"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/base/interrupt.hpp"

namespace backstop::base {
namespace {

namespace fs = std::filesystem;

class FilesTest : public testing::Test {
 protected:
  FilesTest() {
    std::string pattern = testing::TempDir() + "backstop-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~FilesTest() override { fs::remove_all(folder_); }

  [[nodiscard]] std::ptrdiff_t count() const {
    return std::distance(fs::directory_iterator(folder_), fs::directory_iterator());
  }

  fs::path folder_;
};

TEST_F(FilesTest, AFileIsReplacedAsAWhole) {
  write_file(folder_ / "f", "old");
  write_file(folder_ / "f", "new");
  EXPECT_EQ(read_file(folder_ / "f"), "new");
  EXPECT_EQ(count(), 1);
}

TEST_F(FilesTest, AFailedWriteLeavesTheOldFile) {
  write_file(folder_ / "f", "old");
  EXPECT_THROW(write_file(folder_ / "f",
                          [](std::ostream& out) {
                            out << "half";
                            out.setstate(std::ios::failbit);
                          }),
               HostError);
  EXPECT_EQ(read_file(folder_ / "f"), "old");
  EXPECT_EQ(count(), 1);
}

TEST_F(FilesTest, ErrorsNameTheFileAndTheReason) {
  try {
    write_file(folder_ / "none" / "f", "text");
    FAIL();
  } catch (const HostError& e) {
    EXPECT_EQ(e.code(), ExitCode::environment);
    EXPECT_EQ(e.what(),
              "cannot write " + (folder_ / "none" / "f").string() + ": No such file or directory");
  }
  EXPECT_THROW((void)read_file(folder_ / "none"), HostError);
}

TEST_F(FilesTest, LinesCanBeReadAtOnce) {
  LineFile lines(folder_ / "log");
  lines.write("first");
  EXPECT_EQ(read_file(folder_ / "log"), "first\n");
  LineFile(folder_ / "log").write("second");
  EXPECT_EQ(read_file(folder_ / "log"), "first\nsecond\n");
}

TEST_F(FilesTest, AFailureInTheMiddleLeavesNothing) {
  EXPECT_THROW(write_file(folder_ / "f", [](std::ostream&) { throw std::runtime_error("stop"); }),
               std::runtime_error);
  fs::create_directory(folder_ / "taken");
  EXPECT_THROW(write_file(folder_ / "taken", "text"), HostError);
  EXPECT_EQ(count(), 1);
}

TEST_F(FilesTest, ReadsOnlyRegularFilesUpToALimit) {
  const fs::path fifo = folder_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const fs::path& path : {fifo, folder_, fs::path("/dev/zero"), folder_ / "none"})
    EXPECT_THROW((void)read_file(path), HostError) << path;
  write_file(folder_ / "f", "12345");
  EXPECT_EQ(read_file(folder_ / "f", 5), "12345");
  EXPECT_THROW((void)read_file(folder_ / "f", 4), HostError);
}

TEST_F(FilesTest, ReadingAFileEndsWithCtrlC) {
  write_file(folder_ / "f", "text");
  const std::atomic<int> signal_number{SIGINT};
  watch_for_interrupt(&signal_number);
  EXPECT_THROW((void)read_file(folder_ / "f"), Cancelled);
  watch_for_interrupt(nullptr);
  EXPECT_EQ(read_file(folder_ / "f"), "text");
}

}  // namespace
}  // namespace backstop::base
