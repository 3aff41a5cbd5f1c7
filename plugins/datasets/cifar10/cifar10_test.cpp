#include <filesystem>
#include <optional>
#include <random>
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
using ::testing::HasSubstr;
using ::testing::IsEmpty;

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRecords = 12;
constexpr std::size_t kRecordSize = 3073;
const char* const kNames[] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                              "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};

/// Records with these labels, and pixels that depend on `seed`.
std::string batch(const std::string& labels, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes;
  for (char label : labels) {
    bytes += static_cast<char>(label - '0');
    for (std::size_t i = 1; i < kRecordSize; ++i) bytes += static_cast<char>(random() & 0xff);
  }
  return bytes;
}

/// The same images and labels in the Python version's form.
std::string pickled(const std::string& records) {
  std::string labels, data;
  for (std::size_t i = 0; i < records.size(); i += kRecordSize) {
    labels += records[i];
    data += records.substr(i + 1, kRecordSize - 1);
  }
  return pickled_batch({{"labels", labels}}, data);
}

/// Six small batches in a temporary folder.
class Cifar10 : public ::testing::Test {
 protected:
  Cifar10() {
    for (unsigned i = 0; i < 6; ++i) write(folder / kNames[i], batch("012345678901", i));
  }

  Samples load(Split split) {
    const FakeParams params{"root = '" + folder.path().string() + "'"};
    return backstop::testing::load(*make<Dataset>(params), context, split);
  }

  /// Expects a refusal that names the file and states this problem.
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

  /// Replaces the binary version with the Python version.
  void pickle_all() const {
    for (const char* name : kNames) {
      write((folder / name).replace_extension(), pickled(backstop::files::read(folder / name)));
      fs::remove(folder / name);
    }
  }

  backstop::files::TemporaryFolder folder;
  FakeContext context;
};

TEST_F(Cifar10, ReadsTheBatchesInOrder) {
  const Samples train = load(Split::train);
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({5 * kRecords, 3, 32, 32}));
  EXPECT_EQ(train.images.scalar_type(), at::kByte);
  EXPECT_TRUE(train.images.is_contiguous());
  EXPECT_EQ(train.labels.scalar_type(), at::kLong);
  // The last pixel but one of the green channel, in the third record of the fourth batch.
  const std::string bytes = batch("012345678901", 3);
  const auto pixel = static_cast<unsigned char>(bytes[2 * kRecordSize + 1 + 2 * 1024 - 2]);
  EXPECT_EQ(train.images[3 * kRecords + 2][1][31][30].item<int>(), pixel);
  EXPECT_EQ(train.labels[3 * kRecords + 2].item<int>(), 2);

  const Samples test = load(Split::test);
  EXPECT_EQ(test.images.sizes(), at::IntArrayRef({kRecords, 3, 32, 32}));
  EXPECT_EQ(test.images[0][0][0][0].item<int>(), static_cast<unsigned char>(batch("0", 5)[1]));
}

TEST_F(Cifar10, FindsTheBatchesOneFolderDeeper) {
  const fs::path inner = folder / "cifar-10-batches-bin";
  fs::create_directory(inner);
  for (const char* name : kNames) fs::rename(folder / name, inner / name);
  EXPECT_EQ(load(Split::test).images.size(0), kRecords);
}

TEST_F(Cifar10, RefusesMissingFileOfEitherSplit) {
  fs::remove(folder / "test_batch.bin");
  expect_refused("test_batch.bin", "is missing");
}

TEST_F(Cifar10, RefusesEmptyFolderAndNamesBothArchives) {
  for (const char* name : kNames) fs::remove(folder / name);
  try {
    load(Split::train);
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.what(), (folder / kNames[0]).string() + ": is missing");
    EXPECT_EQ(error.hint(),
              "set `root` to the folder that cifar-10-binary.tar.gz or cifar-10-python.tar.gz "
              "unpacks to");
  }
}

TEST_F(Cifar10, ReadsTheSameDataFromThePythonVersion) {
  const Samples binary = load(Split::train);
  pickle_all();
  const Samples python = load(Split::train);
  EXPECT_TRUE(python.images.equal(binary.images));
  EXPECT_TRUE(python.labels.equal(binary.labels));
  EXPECT_TRUE(python.images.is_contiguous());

  const fs::path inner = folder / "cifar-10-batches-py";
  fs::create_directory(inner);
  for (const char* name : kNames) {
    const fs::path file = fs::path(name).replace_extension();
    fs::rename(folder / file.string(), inner / file);
  }
  EXPECT_TRUE(load(Split::train).images.equal(binary.images));
}

TEST_F(Cifar10, RefusesPicklesThatNeedMoreThanNumpy) {
  pickle_all();
  write(folder / "data_batch_3", "cposix\nsystem\n(S'true'\ntR.");
  expect_refused("data_batch_3",
                 "the pickle asks for posix.system, but a CIFAR file needs only numpy arrays");
}

TEST_F(Cifar10, RefusesLabelOutOfRangeInAPickle) {
  write(folder / kNames[1], batch("012345678:01", 1));
  pickle_all();
  expect_refused("data_batch_2", "record 9 (counting from 0) has label 10, expected 0 to 9");
}

TEST_F(Cifar10, RefusesOfficialTestPickleUnderTrainingName) {
  write(folder / kNames[4], batch("388066163109", 0));
  pickle_all();
  expect_refused("data_batch_5",
                 "its first labels are 3 8 8 0 6 6 1 6 3 1, those of test_batch, expected 1 8 5 1 "
                 "5 7 4 3 8 2");
}

TEST_F(Cifar10, WarnsAboutIncompleteFiles) {
  load(Split::test);
  EXPECT_THAT(context.messages, ElementsAre((folder / kNames[5]).string() +
                                            ": has 12 images; the official file has 10000"));
  load(Split::train);
  EXPECT_EQ(context.messages.size(), 6U);
}

TEST_F(Cifar10, RefusesUnknownSplits) {
  try {
    load(Split::unlabeled);
    FAIL();
  } catch (const backstop::ParameterError& error) {
    EXPECT_STREQ(error.what(), "cifar10 has no split `unlabeled`; it has train, test");
  }
}

TEST_F(Cifar10, ListsTheFilesOfASplit) {
  const auto files = [&](Split split) {
    const FakeParams params{"root = '" + folder.path().string() + "'"};
    const auto dataset = make<Dataset>(params);
    std::vector<std::pair<std::string, std::string>> found;
    for (const auto& file : backstop::testing::files(*dataset, split))
      found.emplace_back(fs::path(file.path).filename(), file.md5);
    return found;
  };
  fs::remove(folder / kNames[3]);
  EXPECT_EQ(files(Split::train).size(), 4U);
  EXPECT_THAT(files(Split::test), ElementsAre(std::pair<std::string, std::string>{
                                      "test_batch.bin", "803d5f7f4d78ea53de84dbe85f74fb6d"}));
  EXPECT_THAT(files(Split::extra), IsEmpty());
  write(folder / kNames[3], batch("0", 3));
  pickle_all();
  write(folder / "batches.meta", "names");
  EXPECT_EQ(files(Split::train).size(), 6U);
  EXPECT_EQ(files(Split::train)[5].first, "batches.meta");
  EXPECT_EQ(files(Split::test)[0].second, "40351d587109b95175f43aff81a1287e");
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
  const backstop::files::Unreadable unreadable(folder / kNames[2]);
  expect_refused(kNames[2], "cannot be read: Permission denied");
}

TEST_F(Cifar10, RefusesEmptyFile) {
  write(folder / kNames[1], "");
  expect_refused(kNames[1], "is empty, expected a batch file");
}

TEST_F(Cifar10, RefusesTruncatedFile) {
  fs::resize_file(folder / kNames[1], 36875);
  expect_refused(kNames[1], "has 36875 bytes, expected 30730000 (10000 records of 3073 bytes)");
}

TEST_F(Cifar10, RefusesFileThatIsTooLong) {
  fs::resize_file(folder / kNames[5], 36877);
  expect_refused(kNames[5], "has 36877 bytes, expected 30730000 (10000 records of 3073 bytes)");
  fs::resize_file(folder / kNames[5], 30733073);
  expect_refused(kNames[5], "has 30733073 bytes, expected 30730000 (10000 records of 3073 bytes)");
}

TEST_F(Cifar10, RefusesLabelOutOfRange) {
  write(folder / kNames[4], batch("01234567:901", 4));
  expect_refused(kNames[4], "record 8 (counting from 0) has label 10, expected 0 to 9");
}

TEST_F(Cifar10, RefusesCopyOfAnotherBatch) {
  write(folder / kNames[5], batch("012345678901", 1));
  expect_refused(kNames[5], "is a copy of data_batch_2.bin, expected different images",
                 Split::train);
  expect_refused(kNames[5], "is a copy of data_batch_2.bin, expected different images",
                 Split::test);
}

TEST_F(Cifar10, AcceptsBatchesThatDifferOnlyInTheirLastImage) {
  std::string bytes = batch("012345678901", 1);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write(folder / kNames[5], bytes);
  EXPECT_NO_THROW(load(Split::test));
}

TEST_F(Cifar10, RefusesOfficialTestBatchUnderTrainingName) {
  write(folder / kNames[0], batch("388066163109", 0));
  expect_refused(kNames[0],
                 "its first labels are 3 8 8 0 6 6 1 6 3 1, those of test_batch.bin, expected 6 9 "
                 "9 4 1 1 2 7 8 3");
}

TEST_F(Cifar10, AcceptsTheOfficialFirstLabelsUnderTheirOwnName) {
  write(folder / kNames[0], batch("699411278347", 0));
  write(folder / kNames[5], batch("388066163109", 5));
  EXPECT_NO_THROW(load(Split::train));
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
        const Samples samples = load(split);
        ASSERT_EQ(samples.images.size(0), samples.labels.size(0));
        ASSERT_LT(samples.labels.max().item<std::int64_t>(), 10);
      } catch (const EnvironmentError& error) {
        ++refused;
        ASSERT_THAT(error.what(), HasSubstr(folder.path().string()));
      }
    }
    write(folder / kNames[which], batch("01", which));
  }
  EXPECT_GT(refused, kRounds / 2);
  EXPECT_LT(refused, 2 * kRounds);
}

/// Reads the real files, where the recipes look for them: in the project's data/.
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
};

TEST_F(RealCifar10, HasTheOfficialImages) {
  const auto dataset = make<Dataset>(*params);
  EXPECT_EQ(dataset->classes(), 10);
  for (const auto& [split, count] : {std::pair{Split::train, 50000}, {Split::test, 10000}}) {
    const Samples samples = backstop::testing::load(*dataset, context, split);
    EXPECT_EQ(samples.images.sizes(), at::IntArrayRef({count, 3, 32, 32}));
    EXPECT_TRUE(samples.labels.bincount().equal(at::full({10}, count / 10, at::kLong)));
  }
  const Samples test = backstop::testing::load(*dataset, context, Split::test);
  EXPECT_EQ(dataset->class_name(test.labels[0].item<std::int64_t>()), "cat");
}

TEST_F(RealCifar10, StatisticsAreThoseOfTheTrainingImages) {
  const auto dataset = make<Dataset>(*params);
  const at::Tensor images = backstop::testing::load(*dataset, context, Split::train).images;
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    const at::Tensor pixels = images.select(1, channel).to(at::kFloat).div(255);
    EXPECT_NEAR(dataset->means()[channel], pixels.mean().item<double>(), 6e-5);
    EXPECT_NEAR(dataset->deviations()[channel], pixels.std().item<double>(), 7e-4);
  }
}

TEST_F(RealCifar10, ReadsTheSameDataFromAPickle) {
  for (const char* name : kNames) {
    fs::remove(folder / name);
    write((folder / name).replace_extension(), pickled(backstop::files::read(root / name)));
  }
  const auto dataset = make<Dataset>(*params);
  for (const Split split : {Split::train, Split::test}) {
    const Samples binary = backstop::testing::load(*dataset, context, split), python = load(split);
    EXPECT_TRUE(python.images.equal(binary.images));
    EXPECT_TRUE(python.labels.equal(binary.labels));
  }
  EXPECT_THAT(context.messages, IsEmpty());
}

TEST_F(RealCifar10, RefusesAnyTwoBatchesWithSwappedNames) {
  for (unsigned i = 0; i < 6; ++i) {
    for (unsigned j = 0; j < i; ++j) {
      for (unsigned k = 0; k < 6; ++k) {
        fs::remove(folder / kNames[k]);
        fs::create_symlink(root / kNames[k == i ? j : k == j ? i : k], folder / kNames[k]);
      }
      EXPECT_THROW(load(Split::test), EnvironmentError) << i << ' ' << j;
    }
  }
}

}  // namespace
