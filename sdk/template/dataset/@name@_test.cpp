#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Dataset;
using backstop::Split;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::files;
using backstop::testing::load;
using backstop::testing::make;
using backstop::testing::Samples;

namespace {

namespace fs = std::filesystem;

/// The bytes of an image, in which pixel i has the value i % 251.
std::string record(char label) {
  std::string bytes(1, label);
  for (int i = 0; i < 3 * 16 * 16; ++i) bytes += static_cast<char>(i % 251);
  return bytes;
}

class @Class@ : public ::testing::Test {
 protected:
  @Class@() {
    std::string name = ::testing::TempDir() + "@name@-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~@Class@() override { fs::remove_all(folder_); }

  void write(const std::string& bytes) const {
    std::ofstream(folder_ / "train.bin", std::ios::binary) << bytes;
  }
  [[nodiscard]] FakeParams params() const {
    return FakeParams{"path = '" + folder_.string() + "'"};
  }
  Samples load_train() {
    const FakeParams in_folder = params();
    return load(*make<Dataset>(in_folder), context_, Split::train);
  }
  /// Expects that loading fails with this problem of train.bin.
  void expect_refused(const std::string& problem) {
    try {
      load_train();
      ADD_FAILURE() << "it was loaded";
    } catch (const backstop::EnvironmentError& error) {
      EXPECT_EQ(error.what(), (folder_ / "train.bin").string() + ": " + problem);
      EXPECT_NE(error.hint(), "");
    }
  }

  fs::path folder_;
  FakeContext context_;
};

TEST_F(@Class@, ReadsItsFiles) {
  write(record(2) + record(0));
  const Samples train = load_train();
  EXPECT_TRUE(train.labels.equal(at::tensor({2, 0}, at::kLong)));
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({2, 3, 16, 16}));
  EXPECT_TRUE(train.images.is_contiguous());
  const at::Tensor green = train.images.select(0, 1).select(0, 1);
  EXPECT_EQ(green.select(0, 15).select(0, 3).item<int>(), (256 + 15 * 16 + 3) % 251);
}

TEST_F(@Class@, RefusesDamagedFiles) {
  expect_refused("No such file or directory");
  write("");
  expect_refused("has 0 bytes, but must have a multiple of 769");
  write(record(0) + record(1).substr(1));
  expect_refused("has 1537 bytes, but must have a multiple of 769");
  write(record(0) + record(3));
  expect_refused("has the label 3, but labels must be below 3");
}

TEST_F(@Class@, NamesItsFiles) {
  write(record(0));
  const FakeParams in_folder = params();
  const auto dataset = make<Dataset>(in_folder);
  ASSERT_EQ(files(*dataset, Split::train).size(), 1U);
  EXPECT_EQ(files(*dataset, Split::train)[0].path, folder_ / "train.bin");
  EXPECT_EQ(files(*dataset, Split::test).size(), 0U);
}

TEST_F(@Class@, MakesImagesUpWithoutAFolder) {
  const FakeParams params;
  FakeContext other_seed{7};
  const auto dataset = make<Dataset>(params);
  const Samples train = load(*dataset, context_, Split::train);
  EXPECT_TRUE(train.images.equal(load(*dataset, other_seed, Split::train).images));
  EXPECT_EQ(load(*dataset, context_, Split::test).images.size(0), 256);
  const at::Tensor pixels = train.images.to(at::kDouble).div(255);
  EXPECT_NEAR(pixels.mean().item<double>(), dataset->means()[0], 0.01);
  EXPECT_NEAR(pixels.std().item<double>(), dataset->deviations()[0], 0.01);
}

}  // namespace
