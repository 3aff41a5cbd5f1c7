#include "idx.hpp"

#include <random>
#include <string>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "backstop/error.hpp"
#include "testing.hpp"

namespace backstop::idx {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr Expected kSmall{5, 4, 3, 10};
const char* const kImages = "train-images-idx3-ubyte";
const char* const kLabels = "train-labels-idx1-ubyte";

std::string image_bytes(std::uint32_t count = 5, std::uint32_t rows = 4,
                        std::uint32_t columns = 3) {
  std::string bytes = header(0x803, {count, rows, columns});
  for (std::uint32_t i = 0; i < count * rows * columns; ++i) bytes += static_cast<char>(i * 7);
  return bytes;
}

std::string label_bytes(const std::string& labels = {9, 0, 3, 1, 7}) {
  return header(0x801, {static_cast<std::uint32_t>(labels.size())}) + labels;
}

class Idx : public ::testing::Test {
 protected:
  void SetUp() override {
    write(folder / kImages, image_bytes());
    write(folder / kLabels, label_bytes());
  }

  /// Expects a refusal that names the file and states this problem.
  void expect_refused(const std::string& file, const std::string& problem) const {
    try {
      read_files(folder.path(), "train", kSmall, "get the files");
      ADD_FAILURE() << "accepted " << file;
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.what(), (folder / file).string() + ": " + problem);
      EXPECT_FALSE(error.hint().empty());
    }
  }

  TemporaryFolder folder;
};

TEST_F(Idx, ReadsImagesAndLabels) {
  const files::Samples samples = read_files(folder.path(), "train", kSmall, "");
  EXPECT_EQ(samples.images.sizes(), at::IntArrayRef({5, 1, 4, 3}));
  EXPECT_EQ(samples.images.scalar_type(), at::kByte);
  EXPECT_TRUE(samples.images.is_contiguous());
  EXPECT_EQ(samples.images[1][0][2][1].item<int>(), (12 + 2 * 3 + 1) * 7);
  EXPECT_EQ(samples.labels.scalar_type(), at::kLong);
  EXPECT_TRUE(samples.labels.equal(at::tensor({9, 0, 3, 1, 7}, at::kLong)));
}

TEST_F(Idx, ReadsTheSameDataFromGzip) {
  const backstop::files::Samples plain = read_files(folder.path(), "train", kSmall, "");
  for (const char* name : {kImages, kLabels}) fs::remove(folder / name);
  write(folder / (std::string(kImages) + ".gz"), gzip(image_bytes()));
  write(folder / (std::string(kLabels) + ".gz"), gzip(label_bytes()));
  const backstop::files::Samples packed = read_files(folder.path(), "train", kSmall, "");
  EXPECT_TRUE(packed.images.equal(plain.images));
  EXPECT_TRUE(packed.labels.equal(plain.labels));
}

TEST_F(Idx, ReadsThePlainFileWhereBothExist) {
  write(folder / (std::string(kLabels) + ".gz"), gzip(label_bytes({1, 1, 1, 1, 1})));
  EXPECT_EQ(read_files(folder.path(), "train", kSmall, "").labels[0].item<int>(), 9);
}

TEST_F(Idx, RefusesMissingFileAndHintsAtItsSource) {
  fs::remove(folder / kLabels);
  expect_refused(kLabels, "is missing, and so is train-labels-idx1-ubyte.gz");
  try {
    read_files(folder.path(), "train", kSmall, "get the files");
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.hint(), "get the files");
  }
}

TEST_F(Idx, RefusesMissingFolder) {
  try {
    read_files(folder / "nowhere", "train", kSmall, "get the files");
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.what(), (folder / "nowhere").string() +
                                ": is not a readable folder, expected one with IDX files");
  }
}

TEST_F(Idx, RefusesFolderInPlaceOfFile) {
  fs::remove(folder / kImages);
  fs::create_directory(folder / kImages);
  expect_refused(kImages, "is a folder, expected an IDX file");
}

TEST_F(Idx, RefusesPipeInsteadOfWaitingForIt) {
  fs::remove(folder / kImages);
  ASSERT_EQ(mkfifo((folder / kImages).c_str(), 0600), 0);
  expect_refused(kImages, "is not a regular file, expected an IDX file");
}

TEST_F(Idx, RefusesSymbolicLinkToItself) {
  fs::remove(folder / kImages);
  fs::create_symlink(kImages, folder / kImages);
  expect_refused(kImages, "cannot be read: Too many levels of symbolic links");
}

TEST_F(Idx, RefusesFileWithoutPermission) {
  const files::Unreadable unreadable(folder / kImages);
  expect_refused(kImages, "cannot be read: Permission denied");
}

TEST_F(Idx, RefusesEmptyFile) {
  write(folder / kImages, "");
  expect_refused(kImages, "is empty, expected an IDX file");
}

TEST_F(Idx, RefusesFileThatEndsInItsHeader) {
  write(folder / kImages, image_bytes().substr(0, 15));
  expect_refused(kImages, "ends after 15 bytes, expected a header of 16");
}

TEST_F(Idx, RefusesTruncatedFile) {
  write(folder / kImages, image_bytes().substr(0, 75));
  expect_refused(kImages, "holds 75 bytes, expected the 76 that its header declares");
}

TEST_F(Idx, RefusesFileThatIsTooLong) {
  write(folder / kLabels, label_bytes() + "x");
  expect_refused(kLabels, "holds more than the 13 bytes that its header declares");
}

TEST_F(Idx, RefusesLabelsInPlaceOfImages) {
  write(folder / kImages, label_bytes() + std::string(20, '\0'));
  expect_refused(kImages, "starts with 0x00000801, expected 0x00000803");
}

TEST_F(Idx, RefusesImagesInPlaceOfLabels) {
  write(folder / kLabels, image_bytes());
  expect_refused(kLabels, "starts with 0x00000803, expected 0x00000801");
}

TEST_F(Idx, RefusesAnotherFormat) {
  write(folder / kImages, "\x89PNG\r\n and some more bytes than a header has");
  expect_refused(kImages, "starts with 0x89504e47, expected 0x00000803");
}

TEST_F(Idx, RefusesTheImageCountOfTheOtherSplit) {
  write(folder / kImages, image_bytes(2));
  expect_refused(kImages, "declares 2 x 4 x 3, expected 5 x 4 x 3 (images x rows x columns)");
}

TEST_F(Idx, RefusesFewerLabelsThanImages) {
  write(folder / kLabels, label_bytes({1, 2, 3, 4}));
  expect_refused(kLabels, "declares 4, expected 5 labels");
}

TEST_F(Idx, RefusesAnotherImageSize) {
  write(folder / kImages, image_bytes(5, 3, 4));
  expect_refused(kImages, "declares 5 x 3 x 4, expected 5 x 4 x 3 (images x rows x columns)");
}

TEST_F(Idx, RefusesHugeDeclaredCountBeforeAllocating) {
  write(folder / kImages, header(0x803, {0xffffffff, 0xffffffff, 0xffffffff}));
  expect_refused(kImages,
                 "declares 4294967295 x 4294967295 x 4294967295, expected 5 x 4 x 3 (images x rows "
                 "x columns)");
}

TEST_F(Idx, RefusesLabelOutOfRange) {
  write(folder / kLabels, label_bytes({9, 0, 10, 1, 11}));
  expect_refused(kLabels, "label 2 (counting from 0) is 10, expected 0 to 9");
}

class IdxGzip : public Idx {
 protected:
  void SetUp() override {
    Idx::SetUp();
    fs::remove(folder / kImages);
  }
  const std::string packed_images = std::string(kImages) + ".gz";
};

TEST_F(IdxGzip, RefusesEveryTruncatedStream) {
  const std::string packed = gzip(image_bytes());
  for (std::size_t length = 20; length < packed.size(); ++length) {
    write(folder / packed_images, packed.substr(0, length));
    expect_refused(packed_images, "ends in the middle of its gzip stream");
  }
}

TEST_F(IdxGzip, RefusesWrongChecksum) {
  std::string packed = gzip(image_bytes());
  packed[packed.size() - 8] ^= 1;
  write(folder / packed_images, packed);
  expect_refused(packed_images, "holds damaged gzip data");
}

TEST_F(IdxGzip, RefusesEmptyStream) {
  write(folder / packed_images, gzip(""));
  expect_refused(packed_images, "decompresses to nothing, expected an IDX file");
}

TEST_F(IdxGzip, RefusesStreamThatIsTooShort) {
  write(folder / packed_images, gzip(image_bytes().substr(0, 70)));
  expect_refused(packed_images,
                 "decompresses to 70 bytes, expected the 76 that its header declares");
}

TEST_F(IdxGzip, StopsDecompressingAtTheDeclaredEnd) {
  // The damage in the second half would be reported if the reader got that far.
  std::string bomb = gzip(image_bytes() + std::string(std::size_t{64} << 20, '\0'));
  for (std::size_t i = bomb.size() / 2; i < bomb.size(); ++i) bomb[i] = '\xff';
  write(folder / packed_images, bomb);
  expect_refused(packed_images, "decompresses to more than the 76 bytes that its header declares");
}

/// Changes, removes and inserts some bytes.
std::string mutate(std::string bytes, std::mt19937& random) {
  const auto below = [&](std::size_t limit) { return random() % limit; };
  for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
    const std::size_t at = bytes.empty() ? 0 : below(bytes.size());
    switch (below(4)) {
      case 0:
        bytes.resize(at);
        break;
      case 1:
        bytes.insert(at, below(20), static_cast<char>(below(256)));
        break;
      default:
        if (!bytes.empty()) bytes[at] = static_cast<char>(below(256));
    }
  }
  return bytes;
}

TEST_F(Idx, RefusesHugeFilesBeforeReadingThem) {
  fs::resize_file(folder / kImages, (64 << 20) + 1);
  expect_refused(kImages, "has 67108865 bytes, expected at most 67108864");
}

TEST_F(Idx, SurvivesMutatedFiles) {
  std::mt19937 random(1);
  int refused = 0;
  constexpr int kRounds = 4000;
  for (int round = 0; round < kRounds; ++round) {
    const bool packed = round % 2 == 1, images = round % 4 < 2;
    const std::string name = images ? kImages : kLabels;
    const std::string bytes = images ? image_bytes() : label_bytes();
    fs::remove(folder / name);
    const std::string file = packed ? name + ".gz" : name;
    write(folder / file, mutate(packed ? gzip(bytes) : bytes, random));
    try {
      const files::Samples samples = read_files(folder.path(), "train", kSmall, "");
      ASSERT_EQ(samples.images.sizes(), at::IntArrayRef({5, 1, 4, 3}));
      ASSERT_LT(samples.labels.max().item<std::int64_t>(), 10);
    } catch (const EnvironmentError& error) {
      ++refused;
      ASSERT_THAT(error.what(), HasSubstr((folder / file).string()));
    }
    fs::remove(folder / file);
    write(folder / name, bytes);
  }
  EXPECT_GT(refused, kRounds / 2);
  EXPECT_LT(refused, kRounds);
}

}  // namespace
}  // namespace backstop::idx
