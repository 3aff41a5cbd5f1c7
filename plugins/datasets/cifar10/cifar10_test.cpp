#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"
#include "batches.hpp"

using backstop::Dataset;
using backstop::EnvironmentError;
using backstop::Samples;
using backstop::Split;
using backstop::cifar10::read_split;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using ::testing::HasSubstr;

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRecords = 12;
constexpr std::size_t kRecordSize = 3073;
const char* const kNames[] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                              "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};

void write(const fs::path& file, const std::string& bytes) {
  fs::remove(
      file);  // some file systems wait for the disk when a file is truncated and written anew
  std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
}

/// The labels, one a record, and pixels that depend on `seed`.
std::string batch(const std::string& labels, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes;
  for (char label : labels) {
    bytes += static_cast<char>(label - '0');
    for (std::size_t i = 1; i < kRecordSize; ++i) bytes += static_cast<char>(random() & 0xff);
  }
  return bytes;
}

/// Six small batches in a temporary folder.
class Cifar10 : public ::testing::Test {
 protected:
  Cifar10() {
    std::string name = (fs::temp_directory_path() / "backstop-cifar10-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("cannot make a temporary folder");
    folder = name;
    for (unsigned i = 0; i < 6; ++i) write(folder / kNames[i], batch("012345678901", i));
  }
  ~Cifar10() override { fs::remove_all(folder); }

  /// Expects a refusal that names the file, and says this of it.
  void expect_refused(const std::string& file, const std::string& problem,
                      Split split = Split::train, std::int64_t records = kRecords) const {
    try {
      read_split(folder, split, records);
      ADD_FAILURE() << "accepted " << file;
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.what(), (folder / file).string() + ": " + problem);
      EXPECT_FALSE(error.hint().empty());
    }
  }

  fs::path folder;
};

TEST_F(Cifar10, ReadsTheBatchesInOrder) {
  const Samples train = read_split(folder, Split::train, kRecords);
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({5 * kRecords, 3, 32, 32}));
  EXPECT_EQ(train.images.scalar_type(), at::kByte);
  EXPECT_TRUE(train.images.is_contiguous());
  EXPECT_EQ(train.labels.scalar_type(), at::kLong);
  // The last pixel but one of the green channel, third record, fourth batch.
  const std::string bytes = batch("012345678901", 3);
  const auto pixel = static_cast<unsigned char>(bytes[2 * kRecordSize + 1 + 2 * 1024 - 2]);
  EXPECT_EQ(train.images[3 * kRecords + 2][1][31][30].item<int>(), pixel);
  EXPECT_EQ(train.labels[3 * kRecords + 2].item<int>(), 2);

  const Samples test = read_split(folder, Split::test, kRecords);
  EXPECT_EQ(test.images.sizes(), at::IntArrayRef({kRecords, 3, 32, 32}));
  EXPECT_EQ(test.images[0][0][0][0].item<int>(), static_cast<unsigned char>(batch("0", 5)[1]));
}

TEST_F(Cifar10, FindsTheBatchesOneFolderDeeper) {
  const fs::path inner = folder / "cifar-10-batches-bin";
  fs::create_directory(inner);
  for (const char* name : kNames) fs::rename(folder / name, inner / name);
  EXPECT_EQ(read_split(folder, Split::test, kRecords).images.size(0), kRecords);
}

TEST_F(Cifar10, RefusesMissingFileEvenOfTheOtherSplit) {
  fs::remove(folder / "test_batch.bin");
  expect_refused("test_batch.bin", "is missing");
}

TEST_F(Cifar10, KnowsThePythonVersion) {
  for (const char* name : kNames) fs::rename(folder / name, (folder / name).replace_extension());
  try {
    read_split(folder, Split::train, kRecords);
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.hint(), HasSubstr("Python version"));
  }
}

TEST_F(Cifar10, RefusesFolderInPlaceOfFile) {
  fs::remove(folder / kNames[2]);
  fs::create_directory(folder / kNames[2]);
  expect_refused(kNames[2], "is a folder, expected a batch file");
}

TEST_F(Cifar10, RefusesSymbolicLinkToItself) {
  fs::remove(folder / kNames[2]);
  fs::create_symlink(kNames[2], folder / kNames[2]);
  expect_refused(kNames[2], "cannot be read: Too many levels of symbolic links");
}

TEST_F(Cifar10, RefusesFileWithoutPermission) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read every file";
  fs::permissions(folder / kNames[2], fs::perms::none);
  expect_refused(kNames[2], "cannot be read: Permission denied");
}

TEST_F(Cifar10, RefusesEmptyFile) {
  write(folder / kNames[1], "");
  expect_refused(kNames[1], "is empty, expected 36876 (12 records of 3073 bytes)");
}

TEST_F(Cifar10, RefusesTruncatedFile) {
  fs::resize_file(folder / kNames[1], 36875);
  expect_refused(kNames[1], "has 36875 bytes, expected 36876 (12 records of 3073 bytes)");
}

TEST_F(Cifar10, RefusesFileThatIsTooLong) {
  fs::resize_file(folder / kNames[5], 36877);
  expect_refused(kNames[5], "has 36877 bytes, expected 36876 (12 records of 3073 bytes)");
}

TEST_F(Cifar10, RefusesLabelOutOfRange) {
  write(folder / kNames[4], batch("01234567:901", 4));
  expect_refused(kNames[4], "record 8 (from 0) has label 10, expected 0 to 9");
}

TEST_F(Cifar10, RefusesCopyOfAnotherBatch) {
  write(folder / kNames[5], batch("012345678901", 1));
  expect_refused(kNames[5], "is a copy of data_batch_2.bin, expected other images", Split::train);
  expect_refused(kNames[5], "is a copy of data_batch_2.bin, expected other images", Split::test);
}

TEST_F(Cifar10, AcceptsBatchesThatDifferOnlyInTheirLastImage) {
  std::string bytes = batch("012345678901", 1);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write(folder / kNames[5], bytes);
  EXPECT_NO_THROW(read_split(folder, Split::test, kRecords));
}

TEST_F(Cifar10, RefusesOfficialTestBatchUnderTrainingName) {
  write(folder / kNames[0], batch("388066163109", 0));
  expect_refused(kNames[0],
                 "its labels begin 3880661631 as those of test_batch.bin do, expected 6994112783");
}

TEST_F(Cifar10, AcceptsTheOfficialFirstLabelsUnderTheirOwnName) {
  write(folder / kNames[0], batch("699411278347", 0));
  write(folder / kNames[5], batch("388066163109", 5));
  EXPECT_NO_THROW(read_split(folder, Split::train, kRecords));
}

TEST_F(Cifar10, PluginExpectsTenThousandRecords) {
  const FakeParams params{"root = '" + folder.string() + "'"};
  FakeContext context;
  try {
    make<Dataset>(params)->load(context, Split::train);
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("has 36876 bytes, expected 30730000 (10000 records of 3073 bytes)"));
  }
}

TEST_F(Cifar10, SurvivesMutatedFiles) {
  std::mt19937 random(1);
  const auto below = [&](std::size_t limit) { return static_cast<unsigned>(random() % limit); };
  int refused = 0;
  constexpr int kRounds = 2000;
  for (unsigned i = 0; i < 6; ++i) write(folder / kNames[i], batch("01", i));
  for (int round = 0; round < kRounds; ++round) {
    const unsigned which = below(6);
    std::string bytes = batch("01", which);
    switch (below(4)) {
      case 0:
        bytes.resize(below(2 * bytes.size()));
        break;
      case 1:
        bytes[below(2) * kRecordSize] = static_cast<char>(below(256));
        break;
      case 2:
        bytes = batch("01", below(6));
        break;
      default:
        bytes[below(bytes.size())] = static_cast<char>(below(256));
    }
    write(folder / kNames[which], bytes);
    for (Split split : {Split::train, Split::test}) {
      try {
        const Samples samples = read_split(folder, split, 2);
        ASSERT_EQ(samples.images.size(0), split == Split::train ? 10 : 2);
        ASSERT_LT(samples.labels.max().item<std::int64_t>(), 10);
      } catch (const EnvironmentError& error) {
        ++refused;
        ASSERT_THAT(error.what(), HasSubstr(folder.string()));
      }
    }
    write(folder / kNames[which], batch("01", which));
  }
  EXPECT_GT(refused, kRounds / 2);
  EXPECT_LT(refused, 2 * kRounds);
}

/// The real files, where the recipes look for them: data/ of the project.
class RealCifar10 : public Cifar10 {
 protected:
  void SetUp() override {
    const fs::path project = fs::path(BACKSTOP_MANIFEST) / "../../../..";
    root = (project / "data" / "cifar-10-batches-bin").lexically_normal();
    if (!fs::exists(root)) GTEST_SKIP() << "no " << root << ": unpack cifar-10-binary.tar.gz there";
    params.emplace("root = '" + root.string() + "'");
  }

  fs::path root;
  std::optional<FakeParams> params;
  FakeContext context;
};

TEST_F(RealCifar10, HasTheOfficialImages) {
  const auto dataset = make<Dataset>(*params);
  EXPECT_EQ(dataset->classes(), 10);
  for (const auto& [split, count] : {std::pair{Split::train, 50000}, {Split::test, 10000}}) {
    const Samples samples = dataset->load(context, split);
    EXPECT_EQ(samples.images.sizes(), at::IntArrayRef({count, 3, 32, 32}));
    EXPECT_TRUE(samples.labels.bincount().equal(at::full({10}, count / 10, at::kLong)));
  }
  const Samples test = dataset->load(context, Split::test);
  EXPECT_EQ(dataset->class_name(test.labels[0].item<std::int64_t>()), "cat");
}

TEST_F(RealCifar10, StatisticsAreThoseOfTheTrainingImages) {
  const auto dataset = make<Dataset>(*params);
  const at::Tensor images = dataset->load(context, Split::train).images;
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    const at::Tensor pixels = images.select(1, channel).to(at::kFloat) / 255;
    EXPECT_NEAR(dataset->statistics().mean[channel], pixels.mean().item<double>(), 6e-5);
    EXPECT_NEAR(dataset->statistics().deviation[channel], pixels.std().item<double>(), 6e-5);
  }
}

TEST_F(RealCifar10, RefusesEveryTwoBatchesWithSwappedNames) {
  for (unsigned i = 0; i < 6; ++i) {
    for (unsigned j = 0; j < i; ++j) {
      for (unsigned k = 0; k < 6; ++k) {
        fs::remove(folder / kNames[k]);
        fs::create_symlink(root / kNames[k == i ? j : k == j ? i : k], folder / kNames[k]);
      }
      EXPECT_THROW(read_split(folder, Split::test, 10000), EnvironmentError) << i << ' ' << j;
    }
  }
}

}  // namespace
