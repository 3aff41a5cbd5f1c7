#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"
#include "shared/idx/testing.hpp"

using backstop::Dataset;
using backstop::Split;
using backstop::idx::header;
using backstop::idx::write;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;

namespace {

/// Four files of MNIST's sizes, with black images and one label for all of a split.
class Mnist : public ::testing::Test {
 protected:
  void SetUp() override {
    write_split("train", 60000, 4);
    write_split("t10k", 10000, 7);
  }

  void write_split(const std::string& prefix, std::uint32_t count, char label) const {
    const std::filesystem::path images = folder / (prefix + "-images-idx3-ubyte");
    write(images, header(0x803, {count, 28, 28}));
    std::filesystem::resize_file(images, 16 + std::uintmax_t{count} * 28 * 28);
    write(folder / (prefix + "-labels-idx1-ubyte"),
          header(0x801, {count}) + std::string(count, label));
  }

  const backstop::idx::TemporaryFolder folder;
  const FakeParams params{"root = '" + folder.path().string() + "'"};
  FakeContext context;
};

TEST_F(Mnist, ReadsBothSplits) {
  const auto dataset = make<Dataset>(params);
  const Samples train = backstop::testing::load(*dataset, context, Split::train);
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({60000, 1, 28, 28}));
  EXPECT_TRUE(train.labels.eq(4).all().item<bool>());
  const Samples test = backstop::testing::load(*dataset, context, Split::test);
  EXPECT_EQ(test.images.sizes(), at::IntArrayRef({10000, 1, 28, 28}));
  EXPECT_TRUE(test.labels.eq(7).all().item<bool>());
}

TEST_F(Mnist, RefusesTestFilesInPlaceOfTrainingFiles) {
  write_split("train", 10000, 7);
  try {
    backstop::testing::load(*make<Dataset>(params), context, Split::train);
    FAIL();
  } catch (const backstop::EnvironmentError& error) {
    EXPECT_EQ(error.what(), (folder / "train-images-idx3-ubyte").string() +
                                ": declares 10000 x 28 x 28, expected 60000 x 28 x 28 (images x "
                                "rows x columns)");
    EXPECT_EQ(error.hint(), "does the file belong to the other split, or to another dataset?");
  }
}

TEST_F(Mnist, FindsTheFilesWhereTorchvisionPutsThem) {
  std::filesystem::create_directories(folder / "MNIST" / "raw");
  for (const char* name : {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}) {
    std::filesystem::rename(folder / name, folder / "MNIST" / "raw" / name);
    std::filesystem::remove(folder / ("train" + std::string(name).substr(4)));
  }
  const auto dataset = make<Dataset>(params);
  EXPECT_EQ(backstop::testing::load(*dataset, context, Split::test).images.size(0), 10000);
  ASSERT_EQ(backstop::testing::files(*dataset, Split::test).size(), 2U);
  EXPECT_EQ(backstop::testing::files(*dataset, Split::test)[0].path,
            (folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte").string());
}

TEST_F(Mnist, GivesTheMd5OfTheCompressedFiles) {
  write(folder / "t10k-labels-idx1-ubyte.gz", "x");
  const auto dataset = make<Dataset>(params);
  const auto files = backstop::testing::files(*dataset, Split::test);
  ASSERT_EQ(files.size(), 3U);
  EXPECT_EQ(files[0].md5, "");
  EXPECT_EQ(files[2].md5, "ec29112dd5afa0611ce80d1b7f02629c");
}

TEST_F(Mnist, RefusesUnknownSplits) {
  EXPECT_THROW(backstop::testing::load(*make<Dataset>(params), context, Split::extra),
               backstop::ParameterError);
}

TEST_F(Mnist, DescribesItself) {
  const auto dataset = make<Dataset>(params);
  EXPECT_EQ(dataset->classes(), 10);
  EXPECT_EQ(dataset->class_name(7), "7");
  EXPECT_EQ(dataset->means()[0], 0.1307);
  EXPECT_EQ(dataset->deviations()[0], 0.3081);
}

}  // namespace
