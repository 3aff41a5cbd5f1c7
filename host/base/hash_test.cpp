#include "host/base/hash.hpp"

#include <cstdlib>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"

namespace backstop::base {
namespace {

namespace fs = std::filesystem;

class HashTest : public testing::Test {
 protected:
  HashTest() {
    std::string pattern = testing::TempDir() + "backstop-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    write_file(folder_ / "abc", "abc");
  }
  ~HashTest() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(HashTest, GivesThePublishedDigests) {
  const std::string abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(sha256_of_text("abc"), abc);
  EXPECT_EQ(sha256_of_file(folder_ / "abc"), abc);
  EXPECT_EQ(md5_of_file(folder_ / "abc"), "900150983cd24fb0d6963f7d28e17f72");
}

TEST_F(HashTest, ReadsFilesLargerThanABuffer) {
  const std::string large(200'000, 'x');
  write_file(folder_ / "large", large);
  EXPECT_EQ(sha256_of_file(folder_ / "large"), sha256_of_text(large));
}

TEST_F(HashTest, ReportsProgress) {
  write_file(folder_ / "large", std::string((std::size_t{1} << 20) + 1, 'x'));
  std::vector<std::int64_t> reports;
  (void)md5_of_file(folder_ / "large", [&](std::int64_t done) { reports.push_back(done); });
  EXPECT_THAT(reports, testing::ElementsAre(std::int64_t{1} << 20, (std::int64_t{1} << 20) + 1));
}

TEST_F(HashTest, RefusesWhatCannotBeRead) {
  const fs::path fifo = folder_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const fs::path& path : {folder_ / "none", folder_, fifo}) {
    try {
      (void)sha256_of_file(path);
      FAIL() << path;
    } catch (const HostError& e) {
      EXPECT_EQ(e.code(), ExitCode::environment);
      EXPECT_THAT(e.what(), testing::HasSubstr(path.string()));
    }
  }
}

}  // namespace
}  // namespace backstop::base
