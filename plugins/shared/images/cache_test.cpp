#include "cache.hpp"

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "backstop/error.hpp"
#include "shared/files/testing.hpp"

namespace backstop::images {
namespace {

namespace fs = std::filesystem;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::StartsWith;

/// A cache of three training images and one test image, 2 x 2.
class ImagesCache : public ::testing::Test {
 protected:
  ImagesCache() {
    key.listing.fill(7);
    key.train = 3;
    key.test = 1;
    key.side = 2;
    summary.sum = {1, 2, 3};
    summary.test.fill(9);
  }

  void write() const {
    CacheWriter writer(file, key);
    for (const std::int64_t position : {2, 0, 3, 1})
      writer.write(position, std::vector<std::uint8_t>(12, static_cast<std::uint8_t>(position)));
    writer.finish(summary);
  }

  /// Expects the file to be refused for this reason.
  void expect_problem(const std::string& expected) const {
    std::string problem;
    EXPECT_EQ(Cache::open(file, key, problem), nullptr);
    EXPECT_EQ(problem, expected);
  }

  void change(std::size_t at) const {
    std::string bytes = files::read(file);
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    files::write(file, bytes);
  }

  const files::TemporaryFolder folder;
  const fs::path file = folder / "inner/a.cache";
  CacheKey key;
  Summary summary;
};

TEST_F(ImagesCache, ReturnsWhatWasWritten) {
  write();
  std::string problem;
  const auto cache = Cache::open(file, key, problem);
  ASSERT_NE(cache, nullptr) << problem;
  EXPECT_EQ(cache->summary(), summary);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_THAT(cache->read(i), Each(i)) << i;
  for (std::int64_t i = 0; i < 4 * 12; ++i) EXPECT_EQ(cache->images()[i], i / 12);
  EXPECT_EQ(fs::file_size(file), static_cast<std::uintmax_t>(key.file_bytes()));
}

TEST_F(ImagesCache, NothingChangesWhatWasRead) {
  write();
  std::string problem;
  const auto cache = Cache::open(file, key, problem);
  for (std::int64_t i = 0; i < 4; ++i) ASSERT_FALSE(cache->read(i).empty());
  files::write(file, "overwritten");
  fs::resize_file(file, 0);
  EXPECT_EQ(cache->images()[47], 3);
}

TEST_F(ImagesCache, NoticesThatTheFileBecomesShorterWhileItIsRead) {
  write();
  std::string problem;
  const auto cache = Cache::open(file, key, problem);
  fs::resize_file(file, kCacheHeader + 30);
  EXPECT_EQ(cache->read(1).size(), 12U);
  EXPECT_TRUE(cache->read(2).empty());
  EXPECT_TRUE(cache->read(3).empty());
}

TEST_F(ImagesCache, MayBeAbsent) {
  expect_problem("");
}

TEST_F(ImagesCache, RejectsTruncatedFiles) {
  write();
  for (const std::uintmax_t size : {4143U, 4096U, 500U, 8U, 0U}) {
    fs::resize_file(file, size);
    expect_problem("has " + std::to_string(size) + " bytes, expected 4144");
  }
}

TEST_F(ImagesCache, RejectsFilesThatAreTooLong) {
  write();
  fs::resize_file(file, 4145);
  expect_problem("has 4145 bytes, expected 4144");
}

TEST_F(ImagesCache, RejectsOtherFilesVersionsAndDamage) {
  write();
  change(3);
  expect_problem("is not an image cache");
  change(3);
  change(16);
  expect_problem("has version 0, expected 1");
  change(16);
  change(20);
  expect_problem("was written on a machine with another byte order");
  change(20);
  change(100);
  expect_problem("has a damaged header");
  change(100);
  std::string problem;
  EXPECT_NE(Cache::open(file, key, problem), nullptr);
}

TEST_F(ImagesCache, RejectsTheCacheOfOtherImages) {
  write();
  using Change = void (*)(CacheKey&);
  for (const Change other :
       {Change([](CacheKey& k) { k.listing[31] = 0; }), Change([](CacheKey& k) { ++k.train; }),
        Change([](CacheKey& k) { ++k.test; }), Change([](CacheKey& k) { ++k.side; })}) {
    CacheKey changed = key;
    other(changed);
    std::string problem;
    EXPECT_EQ(Cache::open(file, changed, problem), nullptr);
    EXPECT_EQ(problem, "holds other images than its name says");
  }
}

TEST_F(ImagesCache, NoticesAChangeOfAnyHeaderByte) {
  write();
  const std::string bytes = files::read(file);
  const auto open = [&](const std::string& changed) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(changed.data());
    return read_header({data, static_cast<std::size_t>(kCacheHeader)}, std::ssize(changed), key)
        .summary.has_value();
  };
  ASSERT_TRUE(open(bytes));
  std::size_t noticed = 0;
  for (; noticed < kCacheHeader; ++noticed) {
    std::string changed = bytes;
    changed[noticed] = static_cast<char>(changed[noticed] ^ 0x10);
    if (open(changed)) break;
  }
  EXPECT_GT(noticed, 200U);
  EXPECT_THAT(bytes.substr(noticed, kCacheHeader - noticed), ::testing::Each('\0'));
}

TEST_F(ImagesCache, RefusesFolderInPlaceOfFile) {
  fs::create_directories(file);
  std::string problem;
  EXPECT_THROW(Cache::open(file, key, problem), EnvironmentError);
}

TEST_F(ImagesCache, LeavesNothingBehindWhenNotFinished) {
  { CacheWriter writer(file, key); }
  EXPECT_TRUE(fs::is_empty(file.parent_path()));
}

TEST_F(ImagesCache, FilesOfKilledProcessesAreRemoved) {
  CacheWriter alive(file, key);
  const pid_t child = fork();
  if (child == 0) {
    const CacheWriter killed(file, key);
    raise(SIGKILL);
  }
  waitpid(child, nullptr, 0);
  files::write(file.parent_path() / ".other", "not ours");
  files::write(file.parent_path() / ".a.cache.x", "not ours either");
  const auto count = [&] {
    return std::distance(fs::directory_iterator(file.parent_path()), fs::directory_iterator());
  };
  ASSERT_EQ(count(), 4);
  remove_abandoned(file.parent_path());
  EXPECT_EQ(count(), 3);
  alive.finish(summary);
  std::string problem;
  EXPECT_NE(Cache::open(file, key, problem), nullptr) << problem;
  remove_abandoned(file.parent_path() / "nowhere");
}

TEST_F(ImagesCache, SaysHowManyBytesItNeedsOnAFullDisk) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 4100;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::string message, hint;
  try {
    write();
  } catch (const EnvironmentError& error) {
    message = error.what();
    hint = error.hint();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(message, file.string() + ": needs 4144 bytes: File too large");
  EXPECT_THAT(hint, HasSubstr("set `cache` to a folder with enough space"));
  EXPECT_TRUE(fs::is_empty(file.parent_path()));
}

TEST_F(ImagesCache, NeedsAFolderThatCanBeCreated) {
  files::write(folder / "inner", "a file");
  try {
    write();
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(),
                StartsWith(file.string() + ": needs a folder that cannot be created: "));
  }
}

TEST(ImagesCacheFolder, BelongsToTheUser) {
  const auto restore = [](const char* name) {
    const char* value = std::getenv(name);
    return std::pair<const char*, std::string>(name, value ? value : "");
  };
  const auto before = {restore("XDG_CACHE_HOME"), restore("HOME")};
  setenv("XDG_CACHE_HOME", "/somewhere", 1);
  EXPECT_EQ(default_cache_folder(), "/somewhere/backstop/datasets");
  setenv("XDG_CACHE_HOME", "not/absolute", 1);
  setenv("HOME", "/home/me", 1);
  EXPECT_EQ(default_cache_folder(), "/home/me/.cache/backstop/datasets");
  unsetenv("HOME");
  EXPECT_THROW(default_cache_folder(), EnvironmentError);
  for (const auto& [name, value] : before) {
    if (value.empty()) {
      unsetenv(name);
    } else {
      setenv(name, value.c_str(), 1);
    }
  }
}

}  // namespace
}  // namespace backstop::images
