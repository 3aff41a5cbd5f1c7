#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <zlib.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"
#include "shared/files/testing.hpp"

using backstop::Dataset;
using backstop::EnvironmentError;
using backstop::Split;
using backstop::files::write;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;

constexpr std::uint32_t kUint8 = 2, kDoubleType = 9;       // of stored values
constexpr std::uint32_t kDoubleClass = 6, kByteClass = 9;  // of matrices

std::string word(std::uint32_t value) {
  std::string bytes;
  for (int shift : {0, 8, 16, 24}) bytes += static_cast<char>(value >> shift & 0xff);
  return bytes;
}

std::string element(std::uint32_t type, std::string data) {
  std::string bytes = word(type) + word(static_cast<std::uint32_t>(data.size())) + data;
  return bytes + std::string((8 - bytes.size() % 8) % 8, '\0');
}

std::string header(const std::string& version = "\x00\x01IM"s) {
  std::string text = "MATLAB 5.0 MAT-file, made by a test";
  return text + std::string(124 - text.size(), ' ') + version;
}

std::string matrix(const std::string& name, std::uint32_t type,
                   const std::vector<std::uint32_t>& shape, std::uint32_t stored,
                   const std::string& data) {
  std::string sizes;
  for (const std::uint32_t size : shape) sizes += word(size);
  // Names of up to four bytes lie in their tag.
  const std::string named = name.size() <= 4
                                ? word(static_cast<std::uint32_t>(name.size()) << 16 | 1) + name +
                                      std::string(4 - name.size(), '\0')
                                : element(1, name);
  return element(
      14, element(6, word(type) + word(0)) + element(5, sizes) + named + element(stored, data));
}

std::string compressed(const std::string& bytes) {
  std::string packed(compressBound(bytes.size()), '\0');
  uLongf size = packed.size();
  compress(reinterpret_cast<Bytef*>(packed.data()), &size,
           reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  packed.resize(size);
  return word(15) + word(static_cast<std::uint32_t>(size)) + packed;
}

/// The pixel of image i in channel c, row y and column x.
char pixel(std::uint32_t i, int c, int y, int x) {
  return static_cast<char>(static_cast<int>(i) * 50 + c * 31 + y * 7 + x);
}

std::string pixels(std::uint32_t count) {
  std::string bytes;
  for (std::uint32_t i = 0; i < count; ++i)
    for (int c = 0; c < 3; ++c)
      for (int x = 0; x < 32; ++x)
        for (int y = 0; y < 32; ++y) bytes += pixel(i, c, y, x);
  return bytes;
}

std::string x(std::uint32_t count) {
  return matrix("X", kByteClass, {32, 32, 3, count}, kUint8, pixels(count));
}

/// MATLAB stores integral doubles in as few bytes as possible.
std::string y(const std::string& labels) {
  return matrix("y", kDoubleClass, {static_cast<std::uint32_t>(labels.size()), 1}, kUint8, labels);
}

std::string y(const std::vector<double>& labels) {
  std::string bytes(8 * labels.size(), '\0');
  std::memcpy(bytes.data(), labels.data(), bytes.size());
  return matrix("y", kDoubleClass, {static_cast<std::uint32_t>(labels.size()), 1}, kDoubleType,
                bytes);
}

std::string good() {
  return header() + compressed(x(3)) + compressed(y("\x0a\x01\x09"));
}

class Svhn : public ::testing::Test {
 protected:
  Samples load(const std::string& bytes, Split split = Split::train) {
    write(folder / "train_32x32.mat", bytes);
    const FakeParams params{"root = '" + folder.path().string() + "'"};
    return backstop::testing::load(*make<Dataset>(params), context, split);
  }
  std::string refusal(const std::string& bytes) {
    try {
      load(bytes);
    } catch (const EnvironmentError& error) {
      EXPECT_FALSE(error.hint().empty());
      return std::string(error.what()).substr((folder / "train_32x32.mat").string().size() + 2);
    }
    return "nothing";
  }

  backstop::files::TemporaryFolder folder;
  FakeContext context;
};

TEST_F(Svhn, ConvertsColumnsToRowsAndLabelTenToZero) {
  const Samples samples = load(good());
  EXPECT_EQ(samples.images.sizes(), at::IntArrayRef({3, 3, 32, 32}));
  EXPECT_TRUE(samples.images.is_contiguous());
  EXPECT_TRUE(samples.labels.equal(at::tensor({0, 1, 9}, at::kLong)));
  const auto* bytes = samples.images.data_ptr<std::uint8_t>();
  for (std::uint32_t i = 0; i < 3; ++i)
    for (int c = 0; c < 3; ++c)
      for (int row = 0; row < 32; ++row)
        for (int column = 0; column < 32; ++column)
          ASSERT_EQ(static_cast<char>(*bytes++), pixel(i, c, row, column)) << i << c << row;
  EXPECT_THAT(context.messages, ElementsAre((folder / "train_32x32.mat").string() +
                                            ": has 3 images; the official file has 73257"));
}

TEST_F(Svhn, ReadsEveryEncodingOfTheSameData) {
  const Samples samples = load(good());
  const std::string bytes_y = matrix("y", kByteClass, {1, 3}, kUint8, "\x0a\x01\x09");
  for (const std::string& bytes :
       {header() + x(3) + y("\x0a\x01\x09"), header() + compressed(x(3)) + bytes_y,
        header() + compressed(y(std::vector<double>{10, 1, 9})) + compressed(x(3))}) {
    const Samples same = load(bytes);
    EXPECT_TRUE(same.images.equal(samples.images));
    EXPECT_TRUE(same.labels.equal(samples.labels));
  }
}

TEST_F(Svhn, FindsTheFilesOneFolderDeeper) {
  fs::create_directory(folder / "SVHN");
  write(folder / "SVHN" / "extra_32x32.mat", good());
  const FakeParams params{"root = '" + folder.path().string() + "'"};
  const auto dataset = make<Dataset>(params);
  EXPECT_EQ(backstop::testing::load(*dataset, context, Split::extra).images.size(0), 3);
  ASSERT_EQ(backstop::testing::files(*dataset, Split::extra).size(), 1U);
  EXPECT_EQ(backstop::testing::files(*dataset, Split::extra)[0].md5,
            "a93ce644f1a588dc4d68dda5feec44a7");
}

TEST_F(Svhn, RefusesMissingFile) {
  const FakeParams params{"root = '" + folder.path().string() + "'"};
  try {
    backstop::testing::load(*make<Dataset>(params), context, Split::test);
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.what(), (folder / "test_32x32.mat").string() + ": is missing");
    EXPECT_EQ(error.hint(), "set `root` to the folder with SVHN's test_32x32.mat (cropped digits)");
  }
}

TEST_F(Svhn, RefusesOtherFormats) {
  EXPECT_EQ(refusal("MATLAB"), "has 6 bytes, expected a header of 128");
  EXPECT_EQ(refusal(header("\x00\x02IM"s) + x(1)),
            "is a MATLAB 7.3 file (HDF5), expected MATLAB 5");
  EXPECT_EQ(refusal(header("\x01\x00MI"s) + x(1)),
            "is a MATLAB 5 file from a big-endian machine, expected a little-endian one");
  EXPECT_EQ(refusal("\x89HDF\r\n" + std::string(200, 'x')),
            "starts with `?HDF??xxxxxxxxxxxxxx`, expected a MATLAB 5 file");
}

TEST_F(Svhn, RefusesMissingAndUnknownVariables) {
  EXPECT_EQ(refusal(header() + compressed(x(3))), "has no variable y, expected X and y");
  EXPECT_EQ(refusal(header()), "has no variable X, expected X and y");
  EXPECT_EQ(refusal(header() + x(3) + x(3)), "has a variable X, expected X and y");
  EXPECT_EQ(refusal(good() + x(3)), "has more than two variables, expected X and y");
  EXPECT_EQ(refusal(header() + matrix("digits", kByteClass, {1, 1}, kUint8, "a")),
            "has a variable digits, expected X and y");
}

TEST_F(Svhn, RefusesMatricesOfOtherClasses) {
  // A cell, a structure, an object, text, a sparse matrix: none reaches libmatio.
  for (const std::uint32_t type : {1U, 2U, 3U, 4U, 5U, 255U})
    EXPECT_EQ(refusal(header() + compressed(matrix("X", type, {1, 1}, kUint8, "a"))),
              "has a variable of class " + std::to_string(type) +
                  ", expected arrays of bytes (9) or doubles (6)");
  EXPECT_EQ(
      refusal(header() + compressed(matrix("X", kDoubleClass, {32, 32, 3, 1}, kUint8, pixels(1))) +
              y("\x01")),
      "X is of class 6, expected bytes (uint8, 9)");
  EXPECT_EQ(refusal(header() + compressed(element(7, "abcd"))),
            "has a matrix of 16 bytes, which is not the size that its head declares");
  EXPECT_EQ(
      refusal(header() + element(7, "abcd")),
      "has an element of type 7 at byte 128, expected a matrix (14) or a compressed one (15)");
}

TEST_F(Svhn, RefusesPartsThatDeclareHugeSizes) {
  constexpr std::size_t kDimensions = 28, kName = 52, kValues = 60;  // where sizes lie in x(1)
  for (const auto& [at, part] : {std::pair{kDimensions, "dimensions"}, {kValues, "values"}}) {
    std::string bytes = x(1);
    bytes.replace(at, 4, word(0x20000000));
    EXPECT_EQ(refusal(header() + compressed(bytes) + y("\x01")),
              "has a variable with damaged "s + part +
                  ", expected flags, dimensions, name and values of an array");
  }
  std::string bytes = x(1);
  bytes.replace(kName - 4, 8, word(1) + word(0x20000000));
  EXPECT_EQ(refusal(header() + bytes + y("\x01")),
            "has a variable with damaged name, expected flags, dimensions, name and values of an "
            "array");
}

TEST_F(Svhn, RefusesComplexNumbers) {
  EXPECT_EQ(refusal(header() + x(1) + matrix("y", kDoubleClass | 0x800, {1, 1}, kUint8, "\x01")),
            "has complex numbers in y, expected real ones");
}

TEST_F(Svhn, RefusesOtherShapes) {
  const auto shaped = [](const std::vector<std::uint32_t>& shape) {
    return header() + compressed(matrix("X", kByteClass, shape, kUint8, pixels(2))) +
           compressed(y("\x01\x02"));
  };
  EXPECT_EQ(refusal(shaped({32, 32, 3, 2})), "nothing");
  EXPECT_EQ(refusal(shaped({32, 32, 6})), "X is 32 x 32 x 6, expected 32 x 32 x 3 x images");
  EXPECT_EQ(refusal(shaped({16, 64, 3, 2})), "X is 16 x 64 x 3 x 2, expected 32 x 32 x 3 x images");
  EXPECT_EQ(refusal(shaped({32, 32, 3, 0})), "X is 32 x 32 x 3 x 0, expected 32 x 32 x 3 x images");
  EXPECT_EQ(refusal(shaped({32, 32, 3, 3})),
            "X is 32 x 32 x 3 x 3 in a variable of 6208 bytes, expected 9216 bytes and a head");
  EXPECT_EQ(refusal(shaped({32, 32, 3, 73258})), "has 73258 images, expected at most 73257");
  EXPECT_THAT(refusal(shaped({32, 32, 3, 0xffffffff})), HasSubstr("expected"));
}

TEST_F(Svhn, RefusesCountsThatDisagree) {
  EXPECT_EQ(refusal(header() + x(3) + y("\x01\x02")),
            "y is 2 x 1, expected 3 x 1, one label per image");
}

TEST_F(Svhn, RefusesLabelsOutOfRange) {
  EXPECT_EQ(refusal(header() + x(2) + y("\x01\x0b")),
            "label 1 (counting from 0) is 11, expected 1 to 10");
  EXPECT_EQ(refusal(header() + x(2) + y("\x00\x01"s)),
            "label 0 (counting from 0) is 0, expected 1 to 10");
  EXPECT_EQ(refusal(header() + x(1) + matrix("y", kByteClass, {1, 1}, kUint8, "\x0b")),
            "label 0 (counting from 0) is 11, expected 1 to 10");
  for (const double label :
       {1.5, -1.0, 1e300, std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_THAT(refusal(header() + x(1) + y(std::vector{label})),
                HasSubstr("label 0 (counting from 0) is "))
        << label;
}

TEST_F(Svhn, RefusesLabelsThatEndEarly) {
  const std::string short_y = matrix("y", kDoubleClass, {3, 1}, kUint8, "\x01");
  EXPECT_THAT(refusal(header() + x(3) + short_y), HasSubstr("expected 1 to 10"));
  EXPECT_THAT(refusal(header() + x(3) + compressed(short_y)), HasSubstr("expected 1 to 10"));
}

TEST_F(Svhn, RefusesEveryTruncation) {
  const std::string bytes = good();
  for (std::size_t size = 1; size < bytes.size(); ++size)
    EXPECT_NE(refusal(bytes.substr(0, size)), "nothing") << size;
  EXPECT_EQ(refusal(bytes.substr(0, 400)), "ends in the middle of a variable after 400 bytes");
}

TEST_F(Svhn, RefusesTrailingBytes) {
  EXPECT_EQ(refusal(good() + "x"), "ends in the middle of a variable after " +
                                       std::to_string(good().size() + 1) + " bytes");
}

TEST_F(Svhn, RefusesDamagedData) {
  std::string bytes = good();
  const std::string first = compressed(x(3));
  bytes[128 + first.size() - 1] = static_cast<char>(bytes[128 + first.size() - 1] ^ 1);
  EXPECT_EQ(refusal(bytes), "holds damaged compressed data");
  EXPECT_EQ(refusal(header() + word(15) + word(20) + first.substr(8, 20)),
            "has a variable that ends in the middle of its compressed data");
  EXPECT_EQ(refusal(header() + word(15) + word(static_cast<std::uint32_t>(first.size() - 6)) +
                    first.substr(8) + "ab"),
            "has bytes after a variable's compressed data, expected none");
}

TEST_F(Svhn, StopsDecompressingAtTheLargestSize) {
  const std::string bomb(std::size_t{240} << 20, '\0');
  EXPECT_EQ(refusal(header() + compressed(bomb)),
            "has a variable of more than 225045600 bytes, larger than any of SVHN's");
}

TEST_F(Svhn, RefusesTheFileOfAnotherSplit) {
  constexpr std::uint32_t kTest = 26032;
  const std::string images(std::size_t{kTest} * 3072, '\0');
  EXPECT_EQ(
      refusal(header() + compressed(matrix("X", kByteClass, {32, 32, 3, kTest}, kUint8, images)) +
              compressed(y(std::string(kTest, '\x01')))),
      "has 26032 images like the official test_32x32.mat, expected 73257");
}

TEST_F(Svhn, RefusesFileWithoutPermission) {
  write(folder / "test_32x32.mat", good());
  const FakeParams params{"root = '" + folder.path().string() + "'"};
  const backstop::files::Unreadable unreadable(folder / "test_32x32.mat");
  try {
    backstop::testing::load(*make<Dataset>(params), context, Split::test);
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.what(),
              (folder / "test_32x32.mat").string() + ": cannot be read: Permission denied");
  }
}

TEST_F(Svhn, RefusesUnknownSplits) {
  EXPECT_THROW(load(good(), Split::unlabeled), backstop::ParameterError);
}

TEST_F(Svhn, SurvivesMutatedFiles) {
  std::mt19937 random(1);
  int refused = 0;
  constexpr int kRounds = 2000;
  for (int round = 0; round < kRounds; ++round) {
    // Variables are changed before they are compressed; otherwise the checksum would catch it.
    std::string bytes[] = {header(), x(2), y("\x0a\x01")};
    for (int edits = 0; edits <= round % 3; ++edits) {
      std::string& part = bytes[random() % 3];
      part[random() % std::min<std::size_t>(part.size(), 130)] = static_cast<char>(random() & 0xff);
    }
    const bool packed = round % 2 == 0;
    try {
      const Samples samples = load(
          bytes[0] + (packed ? compressed(bytes[1]) + compressed(bytes[2]) : bytes[1] + bytes[2]));
      ASSERT_EQ(samples.images.sizes(), at::IntArrayRef({2, 3, 32, 32}));
      ASSERT_LT(samples.labels.max().item<std::int64_t>(), 10);
    } catch (const EnvironmentError& error) {
      ++refused;
      ASSERT_THAT(error.what(), HasSubstr(folder.path().string()));
    }
  }
  EXPECT_GT(refused, kRounds / 4);
  EXPECT_LT(refused, kRounds);
}

TEST_F(Svhn, DescribesItself) {
  const FakeParams params{"root = '" + folder.path().string() + "'"};
  const auto dataset = make<Dataset>(params);
  EXPECT_THAT(dataset->splits(), ElementsAre(Split::train, Split::test, Split::extra));
  EXPECT_EQ(dataset->class_name(0), "0");
  EXPECT_EQ(dataset->classes(), 10);
}

/// Reads the real files, or some of their images, where the recipes look for them.
TEST_F(Svhn, ReadsTheOfficialImages) {
  const fs::path root = (fs::path(BACKSTOP_MANIFEST) / "../../../../data/svhn").lexically_normal();
  if (!fs::exists(root)) GTEST_SKIP() << "no " << root << ": put train_32x32.mat there";
  const FakeParams params{"root = '" + root.string() + "'"};
  const auto dataset = make<Dataset>(params);
  for (const Split split : {Split::train, Split::test}) {
    const Samples samples = backstop::testing::load(*dataset, context, split);
    const at::Tensor counts = samples.labels.bincount();
    EXPECT_EQ(counts.size(0), 10);
    EXPECT_EQ(counts.argmax().item<std::int64_t>(),
              1);  // the most frequent first digit of house numbers
    // The test images are slightly brighter than the training images.
    for (std::int64_t channel = 0; channel < 3; ++channel)
      EXPECT_NEAR(dataset->means()[channel],
                  samples.images.select(1, channel).to(at::kFloat).mean().item<double>() / 255,
                  4e-2);
  }
}

}  // namespace
