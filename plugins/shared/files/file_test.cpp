#include "file.hpp"

#include <array>
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "backstop/error.hpp"
#include "testing.hpp"

namespace backstop::files {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  /// The message that opening `name` is refused with, without the path.
  std::string refusal(const std::string& name) {
    try {
      const File file(folder / name, kind);
    } catch (const EnvironmentError& error) {
      hint = error.hint();
      const std::string prefix = (folder / name).string() + ": ", message = error.what();
      EXPECT_EQ(message.substr(0, prefix.size()), prefix);
      return message.substr(prefix.size());
    }
    return "nothing";
  }

  TemporaryFolder folder;
  const Kind kind{"a test file", "get one", "get another"};
  std::string hint;
};

TEST_F(FileTest, ReadsIntoSeveralBuffersAtOnce) {
  write(folder / "file", "0123456789");
  const File file(folder / "file", kind);
  EXPECT_EQ(file.size(), 10U);
  std::string first(2, ' '), second(3, ' ');
  std::array<iovec, 3> parts{{{first.data(), 2}, {nullptr, 0}, {second.data(), 3}}};
  file.read(4, parts);
  EXPECT_EQ(first + second, "45678");
}

TEST_F(FileTest, RefusesToReadPastTheEnd) {
  write(folder / "file", "0123456789");
  const File file(folder / "file", kind);
  fs::resize_file(folder / "file", 5);
  std::string bytes(8, ' ');
  try {
    file.read(0, bytes.data(), bytes.size());
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.what(),
              (folder / "file").string() + ": ends after 5 bytes, but had 10 when it was opened");
  }
}

TEST_F(FileTest, RefusesMissingFile) {
  EXPECT_EQ(refusal("file"), "is missing");
  EXPECT_EQ(hint, "get one");
}

TEST_F(FileTest, RefusesEmptyFile) {
  write(folder / "file", "");
  EXPECT_EQ(refusal("file"), "is empty, expected a test file");
  EXPECT_EQ(hint, "get another");
}

TEST_F(FileTest, RefusesFolder) {
  fs::create_directory(folder / "file");
  EXPECT_EQ(refusal("file"), "is a folder, expected a test file");
}

TEST_F(FileTest, RefusesPipeInsteadOfWaitingForIt) {
  ASSERT_EQ(mkfifo((folder / "file").c_str(), 0600), 0);
  EXPECT_EQ(refusal("file"), "is not a regular file, expected a test file");
}

TEST_F(FileTest, RefusesSymbolicLinkLoop) {
  fs::create_symlink("other", folder / "file");
  fs::create_symlink("file", folder / "other");
  EXPECT_EQ(refusal("file"), "cannot be read: Too many levels of symbolic links");
}

TEST_F(FileTest, RefusesFileWithoutPermission) {
  write(folder / "file", "0123456789");
  const Unreadable unreadable(folder / "file");
  EXPECT_EQ(refusal("file"), "cannot be read: Permission denied");
  EXPECT_EQ(hint, "check the file and its permissions");
}

TEST_F(FileTest, FindsTheFolderThatHoldsOneOfTheFiles) {
  fs::create_directory(folder / "inner");
  EXPECT_EQ(find_folder(folder.path(), {"inner"}, {"a", "b"}), "");
  write(folder / "inner" / "b", "b");
  EXPECT_EQ(find_folder(folder.path(), {"outer", "inner"}, {"a", "b"}), folder / "inner");
  fs::create_symlink("a", folder / "a");  // unreadable, but it is the file to report
  EXPECT_EQ(find_folder(folder.path(), {"inner"}, {"a", "b"}), folder.path());
}

TEST_F(FileTest, ReplacesControlBytes) {
  EXPECT_EQ(printable("a\x1b[31m\xff"
                      "b"),
            "a?[31m?b");
  EXPECT_EQ(printable(std::string(61, 'x')), std::string(60, 'x') + "...");
}

}  // namespace
}  // namespace backstop::files
