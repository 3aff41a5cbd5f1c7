#include <filesystem>
#include <string>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"
#include "shared/files/testing.hpp"
#include "stl10_files.hpp"

using backstop::Dataset;
using backstop::EnvironmentError;
using backstop::Split;
using backstop::files::write;
using backstop::stl10::kImageSize;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;
using ::testing::ElementsAre;

namespace {

namespace fs = std::filesystem;

/// The pixel of image i in channel c, row y and column x.
char pixel(int i, int c, int y, int x) {
  return static_cast<char>(i * 50 + c * 31 + y * 7 + x);
}

std::string images(int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i)
    for (int c = 0; c < 3; ++c)
      for (int x = 0; x < 96; ++x)
        for (int y = 0; y < 96; ++y) bytes += pixel(i, c, y, x);
  return bytes;
}

class Stl10 : public ::testing::Test {
 protected:
  Stl10() {
    write(folder / "train_X.bin", images(3));
    write(folder / "train_y.bin", {1, 10, 3});
    write(folder / "test_X.bin", images(2));
    write(folder / "test_y.bin", {7, 8});
    write(folder / "unlabeled_X.bin", images(18));
  }

  Samples load(Split split) {
    const FakeParams params{"root = '" + folder.path().string() + "'"};
    return backstop::testing::load(*make<Dataset>(params), context, split);
  }
  void expect_refused(const std::string& file, const std::string& problem,
                      Split split = Split::train) {
    try {
      load(split);
      ADD_FAILURE() << "accepted " << file;
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.what(), (folder / file).string() + ": " + problem);
      EXPECT_FALSE(error.hint().empty());
    }
  }

  backstop::files::TemporaryFolder folder;
  FakeContext context;
};

TEST_F(Stl10, ConvertsColumnsToRowsAndCountsLabelsFromZero) {
  const Samples train = load(Split::train);
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({3, 3, 96, 96}));
  EXPECT_TRUE(train.images.is_contiguous());
  EXPECT_EQ(train.labels.scalar_type(), at::kLong);
  EXPECT_TRUE(train.labels.equal(at::tensor({0, 9, 2}, at::kLong)));
  const auto* bytes = train.images.data_ptr<std::uint8_t>();
  for (int i = 0; i < 3; ++i)
    for (int c = 0; c < 3; ++c)
      for (int y = 0; y < 96; ++y)
        for (int x = 0; x < 96; ++x)
          ASSERT_EQ(static_cast<char>(*bytes++), pixel(i, c, y, x))
              << i << c << ' ' << y << ' ' << x;
  EXPECT_EQ(load(Split::test).images.size(0), 2);
}

TEST_F(Stl10, ReadsImagesWithoutLabels) {
  const Samples unlabeled = load(Split::unlabeled);
  EXPECT_EQ(unlabeled.images.sizes(), at::IntArrayRef({18, 3, 96, 96}));
  EXPECT_EQ(static_cast<char>(unlabeled.images[17][2][3][4].item<int>()), pixel(17, 2, 3, 4));
  EXPECT_TRUE(unlabeled.labels.equal(at::full({18}, -1, at::kLong)));
}

TEST_F(Stl10, FindsTheFilesOneFolderDeeper) {
  fs::create_directory(folder / "stl10_binary");
  for (const char* name : {"train_X.bin", "train_y.bin", "test_X.bin", "unlabeled_X.bin"})
    fs::rename(folder / name, folder / "stl10_binary" / name);
  EXPECT_EQ(load(Split::train).images.size(0), 3);
}

TEST_F(Stl10, WarnsAboutIncompleteFiles) {
  load(Split::train);
  EXPECT_THAT(context.messages, ElementsAre((folder / "train_X.bin").string() +
                                            ": has 3 images; the official file has 5000"));
}

TEST_F(Stl10, RefusesMissingFiles) {
  fs::remove(folder / "train_y.bin");
  expect_refused("train_y.bin", "is missing");
  fs::remove(folder / "unlabeled_X.bin");
  expect_refused("unlabeled_X.bin", "is missing", Split::unlabeled);
}

TEST_F(Stl10, RefusesTruncatedImages) {
  fs::resize_file(folder / "train_X.bin", 3 * kImageSize - 1);
  expect_refused("train_X.bin", "has 82943 bytes, expected 138240000 (5000 images of 27648 bytes)");
}

TEST_F(Stl10, RefusesMoreImagesThanTheOfficialFileHas) {
  fs::resize_file(folder / "train_X.bin", 5001 * kImageSize);
  expect_refused("train_X.bin",
                 "has 138267648 bytes, expected 138240000 (5000 images of 27648 bytes)");
}

TEST_F(Stl10, RefusesTheTestImagesInPlaceOfTheTrainingImages) {
  fs::resize_file(folder / "train_X.bin", 8000 * kImageSize);
  expect_refused("train_X.bin",
                 "has 221184000 bytes, expected 138240000 (5000 images of 27648 bytes)");
  fs::resize_file(folder / "test_X.bin", 5000 * kImageSize);
  expect_refused("test_X.bin",
                 "has 5000 images like the official file of another split, expected 8000",
                 Split::test);
}

TEST_F(Stl10, RefusesCountsThatDisagree) {
  write(folder / "train_y.bin", {1, 2});
  expect_refused("train_y.bin", "has 2 labels, expected 3, one per image");
}

TEST_F(Stl10, RefusesLabelsOutOfRange) {
  write(folder / "train_y.bin", {1, 2, 11});
  expect_refused("train_y.bin", "label 2 (counting from 0) is 11, expected 1 to 10");
  write(folder / "train_y.bin", {1, 0, 10});
  expect_refused("train_y.bin", "label 1 (counting from 0) is 0, expected 1 to 10");
}

TEST_F(Stl10, RefusesEmptyFile) {
  write(folder / "train_X.bin", "");
  expect_refused("train_X.bin", "is empty, expected a file of STL-10");
}

TEST_F(Stl10, RefusesUnknownSplits) {
  EXPECT_THROW(load(Split::extra), backstop::ParameterError);
}

TEST_F(Stl10, DescribesItself) {
  const FakeParams params{"root = '" + folder.path().string() + "'"};
  const auto dataset = make<Dataset>(params);
  EXPECT_THAT(dataset->splits(), ElementsAre(Split::train, Split::test, Split::unlabeled));
  EXPECT_EQ(dataset->class_name(0), "airplane");
  EXPECT_EQ(dataset->class_name(7), "monkey");
  ASSERT_EQ(backstop::testing::files(*dataset, Split::train).size(), 2U);
  EXPECT_EQ(backstop::testing::files(*dataset, Split::train)[1].path,
            (folder / "train_y.bin").string());
  EXPECT_EQ(backstop::testing::files(*dataset, Split::train)[1].md5,
            "5a34089d4802c674881badbb80307741");
  EXPECT_EQ(backstop::testing::files(*dataset, Split::unlabeled).size(), 1U);
}

/// Reads the real files, or some of their images, where the recipes look for them.
TEST_F(Stl10, ReadsTheOfficialImages) {
  const fs::path root =
      (fs::path(BACKSTOP_MANIFEST) / "../../../../data/stl10_binary").lexically_normal();
  if (!fs::exists(root)) GTEST_SKIP() << "no " << root << ": unpack stl10_binary.tar.gz there";
  const FakeParams params{"root = '" + root.string() + "'"};
  const auto dataset = make<Dataset>(params);
  const Samples train = backstop::testing::load(*dataset, context, Split::train);
  EXPECT_EQ(train.labels.bincount().min().item<std::int64_t>(), train.labels.size(0) / 10);
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    const at::Tensor values = train.images.select(1, channel).to(at::kFloat) / 255;
    EXPECT_NEAR(dataset->means()[channel], values.mean().item<double>(), 1e-2);
    EXPECT_NEAR(dataset->deviations()[channel], values.std().item<double>(), 1e-2);
  }
}

}  // namespace
