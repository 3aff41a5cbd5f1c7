#include "folder.hpp"

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "backstop/error.hpp"
#include "shared/files/testing.hpp"

namespace backstop::images {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

class ImagesFolder : public ::testing::Test {
 protected:
  void expect_refused(const fs::path& named, const std::string& problem) const {
    try {
      list_folder(folder.path());
      ADD_FAILURE() << "accepted " << named;
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.what(), named.string() + ": " + problem);
      EXPECT_FALSE(error.hint().empty());
    }
  }

  const files::TemporaryFolder folder;
};

TEST_F(ImagesFolder, IsSortedByTheBytesOfTheNames) {
  for (const char* name : {"b", "a", "B", "\xc3\xa4", ".hidden"}) files::write(folder / name, name);
  fs::create_directory(folder / "c");
  fs::create_symlink("b", folder / "link");
  std::vector<std::string> names;
  for (const Entry& entry : list_folder(folder.path())) {
    names.push_back(entry.name);
    EXPECT_EQ(entry.is_folder, entry.name == "c");
    if (entry.name == "link") {
      EXPECT_EQ(entry.stamp.size, 1);
    }
  }
  EXPECT_THAT(names, ElementsAre(".hidden", "B", "a", "b", "c", "link", "\xc3\xa4"));
}

TEST_F(ImagesFolder, RefusesLoopsAndDanglingLinks) {
  fs::create_symlink("loop", folder / "loop");
  expect_refused(folder / "loop", "cannot be read: Too many levels of symbolic links");
  fs::remove(folder / "loop");
  fs::create_symlink("nowhere", folder / "link");
  expect_refused(folder / "link", "cannot be read: No such file or directory");
}

TEST_F(ImagesFolder, RefusesPipes) {
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_refused(folder / "pipe", "is neither a file nor a folder");
}

TEST_F(ImagesFolder, RefusesFolderWithoutPermission) {
  const fs::path inner = folder / "inner";
  fs::create_directory(inner);
  const files::Unreadable nobody(inner);
  EXPECT_THROW(list_folder(inner), EnvironmentError);
}

TEST_F(ImagesFolder, NoticesFilesThatChange) {
  files::write(folder / "a", "one");
  const Stamp stamp = list_folder(folder.path())[0].stamp;
  EXPECT_EQ(read_file(folder / "a", &stamp), (std::vector<std::uint8_t>{'o', 'n', 'e'}));
  files::write(folder / "a", "two");
  EXPECT_THROW(read_file(folder / "a", &stamp), EnvironmentError);
}

TEST_F(ImagesFolder, RefusesHugeFiles) {
  files::write(folder / "a", "");
  fs::resize_file(folder / "a", kMaximumFile + 1);
  EXPECT_THROW(read_file(folder / "a"), EnvironmentError);
  fs::resize_file(folder / "a", kMaximumText + 1);
  EXPECT_EQ(read_file(folder / "a").size(), kMaximumText + 1U);
  EXPECT_THROW(TextFile(folder / "a"), EnvironmentError);
}

TEST_F(ImagesFolder, RefusesToReadPipesAndDevicesAtOnce) {
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(read_file(folder / "pipe"), EnvironmentError);
  EXPECT_THROW(read_file("/dev/zero"), EnvironmentError);
}

TEST(ImagesText, SplitsLinesWithEitherEnding) {
  std::vector<std::string> texts;
  for (const Line& line : lines_of("\xef\xbb\xbf"
                                   "a\r\n\nb\nc\n\r\n")) {
    texts.push_back(std::to_string(line.number) + std::string(line.text));
  }
  EXPECT_THAT(texts, ElementsAre("1a", "2", "3b", "4c"));
  EXPECT_TRUE(lines_of("").empty());
}

TEST(ImagesText, HasOneMoreFieldThanSeparators) {
  EXPECT_THAT(fields_of("a;b;;c", ';'), ElementsAre("a", "b", "", "c"));
  EXPECT_THAT(fields_of("", ';'), ElementsAre(""));
}

}  // namespace
}  // namespace backstop::images
