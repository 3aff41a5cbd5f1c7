#include <filesystem>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"
#include "shared/cifar/testing.hpp"
#include "shared/files/testing.hpp"

using backstop::Dataset;
using backstop::EnvironmentError;
using backstop::Split;
using backstop::cifar::pickled_batch;
using backstop::files::write;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;
using ::testing::ElementsAre;

namespace {

namespace fs = std::filesystem;

struct Labels {
  std::string coarse, fine;
};
const Labels kTrain{{4, 1, 19, 0}, {99, 1, 13, 0}};
const Labels kTest{{2, 3}, {54, 98}};

/// Image i of a file; its first byte is `first`.
std::string pixels(std::size_t i, char first) {
  std::string bytes(3072, static_cast<char>(i));
  bytes[0] = first;
  return bytes;
}

std::string records(const Labels& labels, char first) {
  std::string bytes;
  for (std::size_t i = 0; i < labels.fine.size(); ++i) {
    bytes += labels.coarse[i];
    bytes += labels.fine[i];
    bytes += pixels(i, first);
  }
  return bytes;
}

std::string pickled(const Labels& labels, char first) {
  std::string data;
  for (std::size_t i = 0; i < labels.fine.size(); ++i) data += pixels(i, first);
  return pickled_batch({{"fine_labels", labels.fine}, {"coarse_labels", labels.coarse}}, data);
}

class Cifar100 : public ::testing::Test {
 protected:
  Cifar100() {
    write(folder / "train.bin", records(kTrain, 'a'));
    write(folder / "test.bin", records(kTest, 'b'));
  }

  Samples load(Split split, const std::string& level = "fine") {
    const FakeParams params{"root = '" + folder.path().string() + "'\nlabel_level = '" + level +
                            "'"};
    return backstop::testing::load(*make<Dataset>(params), context, split);
  }
  void expect_refused(const std::string& file, const std::string& problem,
                      const std::string& level = "fine") {
    try {
      load(Split::train, level);
      ADD_FAILURE() << "accepted " << file;
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.what(), (folder / file).string() + ": " + problem);
      EXPECT_FALSE(error.hint().empty());
    }
  }

  backstop::files::TemporaryFolder folder;
  FakeContext context;
};

TEST_F(Cifar100, ReadsFineAndCoarseLabels) {
  const Samples fine = load(Split::train), coarse = load(Split::train, "coarse");
  EXPECT_EQ(fine.images.sizes(), at::IntArrayRef({4, 3, 32, 32}));
  EXPECT_EQ(fine.images[2][0][0][0].item<int>(), 'a');
  EXPECT_EQ(fine.images[2][2][31][31].item<int>(), 2);
  EXPECT_TRUE(fine.images.equal(coarse.images));
  EXPECT_TRUE(fine.labels.equal(at::tensor({99, 1, 13, 0}, at::kLong)));
  EXPECT_TRUE(coarse.labels.equal(at::tensor({4, 1, 19, 0}, at::kLong)));
}

TEST_F(Cifar100, ReadsTheSameDataFromThePythonVersion) {
  const Samples train = load(Split::train), test = load(Split::test, "coarse");
  for (const char* name : {"train.bin", "test.bin"}) fs::remove(folder / name);
  fs::create_directory(folder / "cifar-100-python");
  write(folder / "cifar-100-python" / "train", pickled(kTrain, 'a'));
  write(folder / "cifar-100-python" / "test", pickled(kTest, 'b'));
  EXPECT_TRUE(load(Split::train).images.equal(train.images));
  EXPECT_TRUE(load(Split::train).labels.equal(train.labels));
  EXPECT_TRUE(load(Split::test, "coarse").labels.equal(test.labels));
}

TEST_F(Cifar100, WarnsAboutIncompleteFiles) {
  load(Split::train);
  EXPECT_THAT(context.messages, ElementsAre((folder / "train.bin").string() +
                                            ": has 4 images; the official file has 50000"));
}

TEST_F(Cifar100, RefusesLabelOutOfRange) {
  write(folder / "train.bin", records({{0, 20}, {100, 0}}, 'a'));
  expect_refused("train.bin", "record 0 (counting from 0) has label 100, expected 0 to 99");
  expect_refused("train.bin", "record 1 (counting from 0) has label 20, expected 0 to 19",
                 "coarse");
}

TEST_F(Cifar100, RefusesPartOfARecord) {
  fs::resize_file(folder / "test.bin", 3075);
  expect_refused("test.bin", "has 3075 bytes, expected 30740000 (10000 records of 3074 bytes)");
}

TEST_F(Cifar100, RefusesSwappedFiles) {
  const Labels official{{10, 10, 0, 4, 10, 2, 11, 7, 10, 4},
                        {49, 33, 72, 51, 71, 92, 15, 14, 23, 0}};
  write(folder / "train.bin", records(official, 'a'));
  expect_refused("train.bin",
                 "its first labels are 49 33 72 51 71 92 15 14 23 0, those of test.bin, expected "
                 "19 29 0 11 1 86 90 28 23 31");
  expect_refused("train.bin",
                 "its first labels are 10 10 0 4 10 2 11 7 10 4, those of test.bin, expected "
                 "11 15 4 14 1 5 18 3 10 11",
                 "coarse");
}

TEST_F(Cifar100, RefusesCopyOfTheOtherSplit) {
  write(folder / "test.bin", records(kTrain, 'a'));
  expect_refused("test.bin", "is a copy of train.bin, expected different images");
}

TEST_F(Cifar100, DescribesItself) {
  const FakeParams fine, coarse{"label_level = 'coarse'"};
  EXPECT_EQ(make<Dataset>(fine)->classes(), 100);
  EXPECT_EQ(make<Dataset>(fine)->class_name(99), "worm");
  EXPECT_EQ(make<Dataset>(coarse)->classes(), 20);
  EXPECT_EQ(make<Dataset>(coarse)->class_name(0), "aquatic_mammals");
  const FakeParams here{"root = '" + folder.path().string() + "'"};
  const auto dataset = make<Dataset>(here);
  ASSERT_EQ(backstop::testing::files(*dataset, Split::test).size(), 1U);
  EXPECT_EQ(backstop::testing::files(*dataset, Split::test)[0].path,
            (folder / "test.bin").string());
}

/// Reads the real files, or the first of their images, where the recipes look for them.
TEST_F(Cifar100, ReadsTheOfficialImages) {
  const fs::path root =
      (fs::path(BACKSTOP_MANIFEST) / "../../../../data/cifar-100-binary").lexically_normal();
  if (!fs::exists(root)) GTEST_SKIP() << "no " << root << ": unpack cifar-100-binary.tar.gz there";
  const FakeParams params{"root = '" + root.string() + "'"};
  const auto dataset = make<Dataset>(params);
  const Samples train = backstop::testing::load(*dataset, context, Split::train);
  EXPECT_EQ(dataset->class_name(train.labels[0].item<std::int64_t>()), "cattle");
  EXPECT_EQ(dataset->class_name(train.labels[1].item<std::int64_t>()), "dinosaur");
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    const at::Tensor values = train.images.select(1, channel).to(at::kFloat) / 255;
    EXPECT_NEAR(dataset->means()[channel], values.mean().item<double>(), 3e-3);
    EXPECT_NEAR(dataset->deviations()[channel], values.std().item<double>(), 3e-3);
  }
  EXPECT_EQ(
      dataset->class_name(
          backstop::testing::load(*dataset, context, Split::test).labels[0].item<std::int64_t>()),
      "mountain");
}

}  // namespace
