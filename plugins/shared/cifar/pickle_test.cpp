#include "pickle.hpp"

#include <functional>
#include <random>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "batch.hpp"
#include "shared/files/testing.hpp"
#include "testing.hpp"

namespace backstop::cifar {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kLabels = {3, 1, 4};

std::string data(std::size_t images = 3) {
  std::string bytes;
  std::mt19937 random(7);
  for (std::size_t i = 0; i < images * 3072; ++i) bytes += static_cast<char>(random() & 0xff);
  return bytes;
}

std::string good() {
  return pickled_batch({{"labels", kLabels}}, data());
}

/// A dictionary with what `fill` adds.
std::string with(const std::function<void(PickleWriter&)>& fill) {
  PickleWriter pickle;
  pickle.raw("\x80\x02}").remember().raw("(");
  fill(pickle);
  return pickle.raw("u.").bytes();
}

class PickleTest : public ::testing::Test {
 protected:
  Pickle read(const std::string& bytes) {
    files::write(path, bytes);
    return read_pickle({path, {"a batch file", "get it", "unpack it again"}}, "labels");
  }
  std::string refusal(const std::string& bytes) {
    try {
      read(bytes);
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.hint(), "unpack it again");
      return std::string(error.what()).substr(path.string().size() + 2);
    }
    return "nothing";
  }

  files::TemporaryFolder folder;
  const std::filesystem::path path = folder / "data_batch_1";
};

TEST_F(PickleTest, FindsTheArrayAndTheLabels) {
  const std::string bytes = good();
  const Pickle pickle = read(bytes);
  EXPECT_EQ(pickle.images, 3);
  EXPECT_FALSE(pickle.column_major);
  EXPECT_EQ(bytes.substr(pickle.data_offset, 3 * 3072), data());
  EXPECT_THAT(pickle.labels, ElementsAre(3, 1, 4));
}

TEST_F(PickleTest, ReadsThousandsOfLabels) {
  std::string labels;
  for (int i = 0; i < 2500; ++i) labels += static_cast<char>(i % 100);
  const Pickle pickle = read(pickled_batch({{"labels", labels}}, data(2500)));
  ASSERT_EQ(pickle.labels.size(), 2500U);
  EXPECT_EQ(pickle.labels[2499], 99);
}

TEST_F(PickleTest, ReadsTransposedArray) {
  const std::string rows = data();
  std::string columns(rows.size(), ' ');
  for (std::size_t image = 0; image < 3; ++image)
    for (std::size_t i = 0; i < 3072; ++i) columns[i * 3 + image] = rows[image * 3072 + i];
  files::write(path, pickled_batch({{"labels", kLabels}}, columns, true));
  const Batch batch(files::File(path, {}), Version::python, {1, 0, "labels", 10}, 10);
  std::string images(2 * std::size_t{3072}, ' ');
  std::int64_t labels[2];
  batch.read(1, 2, reinterpret_cast<std::uint8_t*>(images.data()), labels);
  EXPECT_EQ(images, rows.substr(3072));
  EXPECT_EQ(labels[1], 4);
}

TEST_F(PickleTest, ReadsProtocolOneAndLongIntegers) {
  // Protocol 1 has no header, no short tuples and no booleans.
  PickleWriter pickle;
  pickle.raw("}(").text("labels").raw("](\x8a\x01\x03I1\n\x8a").raw(std::string(1, '\0')).raw("e");
  pickle.text("data").raw("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K");
  pickle.raw(std::string(1, '\0')).raw("t").text("b").raw("tR(K\x01(K\x03M").raw({0, 12}).raw("t");
  pickle.raw("cnumpy\ndtype\n(").text("u1").raw("I0\nI1\ntRI00\n").text(data()).raw("tbu.");
  EXPECT_THAT(read(pickle.bytes()).labels, ElementsAre(3, 1, 0));
}

TEST_F(PickleTest, RefusesToCallAnythingButNumpy) {
  EXPECT_EQ(refusal("cos\nsystem\n(S'true'\ntR."),
            "the pickle asks for os.system, but a CIFAR file needs only numpy arrays");
  EXPECT_EQ(refusal("\x80\x02"
                    "c__builtin__\neval\nU\x01"
                    "1\x85R."),
            "the pickle asks for __builtin__.eval, but a CIFAR file needs only numpy arrays");
  EXPECT_EQ(refusal("c\x1b[2J\n\x07\n."),
            "the pickle asks for ?[2J.?, but a CIFAR file needs only numpy arrays");
}

TEST_F(PickleTest, RefusesInstructionsThatAreNotInTheOfficialFiles) {
  EXPECT_EQ(refusal("\x80\x02(i__main__\nX\n."),
            "the pickle has instruction 105 before byte 4, expected one of those in the official "
            "files");
  EXPECT_EQ(refusal("\x80\x04."),
            "the pickle has protocol 4 before byte 2, expected 2, as in the official files");
}

TEST_F(PickleTest, RefusesAnythingButArraysOfBytes) {
  const auto typed = [](const std::string& type) {
    return with([&](PickleWriter& pickle) {
      pickle.text("labels").list(3, [&](std::size_t) { pickle.integer(1); });
      pickle.text("data").array({3, 3072}, data(), false, type);
    });
  };
  EXPECT_EQ(refusal(typed("u1")), "nothing");
  EXPECT_THAT(refusal(typed("f4")), HasSubstr("an array of another element type before byte"));
  EXPECT_THAT(refusal(typed("O8")), HasSubstr("expected unsigned bytes (u1)"));
}

TEST_F(PickleTest, RefusesCallsOfNonFunctions) {
  EXPECT_EQ(refusal("K\x01)R."),
            "the pickle has a call of an integer before byte 4, expected a call of numpy");
  EXPECT_EQ(refusal("cnumpy\nndarray\n)R."),
            "the pickle has a call of a name before byte 17, expected a call of numpy");
  EXPECT_EQ(refusal("]N)b."),
            "the pickle has a state for none before byte 4, expected one for an array");
}

TEST_F(PickleTest, RefusesOtherShapes) {
  const auto shaped = [](const std::vector<std::int64_t>& shape) {
    return with([&](PickleWriter& pickle) {
      pickle.text("labels").list(3, [&](std::size_t) { pickle.integer(1); });
      pickle.text("data").array(shape, data());
    });
  };
  EXPECT_EQ(refusal(shaped({3, 3072})), "nothing");
  EXPECT_EQ(refusal(shaped({4, 3072})),
            "its array is 4 x 3072 in 9216 bytes, expected images x 3072 in as many bytes");
  EXPECT_EQ(refusal(shaped({9, 1024})),
            "its array is 9 x 1024 in 9216 bytes, expected images x 3072 in as many bytes");
  EXPECT_EQ(refusal(shaped({-1, 3072})),
            "its array is -1 x 3072 in 9216 bytes, expected images x 3072 in as many bytes");
  EXPECT_THAT(refusal(shaped({9216})), HasSubstr("expected images x 3072"));
}

TEST_F(PickleTest, RefusesArrayWithoutContent) {
  const std::string bytes = with([](PickleWriter& pickle) {
    pickle.text("labels").raw("]").text("data");
    pickle.raw(
        "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n)U\x01"
        "b\x87R");
  });
  EXPECT_THAT(refusal(bytes), HasSubstr("its array is 0 x 0"));
}

TEST_F(PickleTest, RefusesCountsThatDisagree) {
  EXPECT_EQ(refusal(pickled_batch({{"labels", {1, 2}}}, data())),
            "has 2 labels and 3 images, expected as many labels as images");
}

TEST_F(PickleTest, RefusesMissingKeys) {
  EXPECT_EQ(refusal(pickled_batch({{"fine_labels", kLabels}}, data())),
            "has no `labels`, expected `data` and `labels`");
  EXPECT_EQ(refusal(with([](PickleWriter&) {})), "has no `data`, expected `data` and `labels`");
}

TEST_F(PickleTest, RefusesKeysOfTheWrongType) {
  EXPECT_EQ(refusal(with([](PickleWriter& p) { p.text("data").text("data"); })),
            "`data` is a string, expected an array");
  EXPECT_EQ(refusal(with([](PickleWriter& p) {
              p.text("data").array({1, 3072}, data(1)).text("labels").raw("]N").raw("a");
            })),
            "label 0 (counting from 0) is none, expected an integer");
}

TEST_F(PickleTest, RefusesAnythingButADictionary) {
  EXPECT_EQ(refusal("\x80\x02]."),
            "the pickle holds a list, expected a dictionary with data and labels");
  EXPECT_EQ(refusal("\x80\x02."),
            "the pickle has more than one object before byte 3, expected one dictionary");
}

TEST_F(PickleTest, RefusesEveryTruncation) {
  const std::string bytes = good();
  for (std::size_t size = 1; size < bytes.size(); size += size < 300 ? 1 : 97)
    EXPECT_THAT(refusal(bytes.substr(0, size)),
                HasSubstr("the pickle is cut off after " + std::to_string(size) + " bytes"));
}

TEST_F(PickleTest, RefusesTrailingBytes) {
  const std::string size = std::to_string(good().size());
  EXPECT_EQ(refusal(good() + "x"), "the pickle ends after " + size + " bytes, but the file has " +
                                       std::to_string(good().size() + 1));
}

TEST_F(PickleTest, RefusesToRunForever) {
  EXPECT_EQ(refusal(std::string(std::size_t{1} << 20, 'N')),
            "has more than 500000 pickle instructions, too many for a CIFAR file");
}

TEST_F(PickleTest, RefusesLongNames) {
  EXPECT_EQ(refusal("c" + std::string(300, 'x')),
            "the pickle has a name of more than 200 bytes before byte 202, expected a shorter one");
}

TEST_F(PickleTest, RefusesMissingOperands) {
  for (const std::string bytes :
       {"a", "e", "s", "u", "t", "\x85", "\x87", "R", "b", "q\x01", "h\x01", "(a",
        "K\x01"
        "a",
        "}(K\x01u", "](R", "I12x\n", "\x8a\x09", "J\x01"})
    EXPECT_THAT(refusal(bytes + "."), HasSubstr("the pickle ")) << bytes;
}

TEST_F(PickleTest, SurvivesListsThatContainThemselves) {
  EXPECT_EQ(refusal("]q\x01h\x01"
                    "a."),
            "the pickle holds a list, expected a dictionary with data and labels");
}

TEST_F(PickleTest, SurvivesMutatedFiles) {
  std::mt19937 random(1);
  const std::string bytes = good();
  int refused = 0;
  constexpr int kRounds = 4000;
  for (int round = 0; round < kRounds; ++round) {
    std::string changed = bytes;
    // The interesting bytes are those before and after the images.
    for (int edits = 0; edits <= round % 3; ++edits) {
      std::size_t at = random() % 500;
      if (at >= 350) at = bytes.size() - 1 - at % 150;
      changed[at] = static_cast<char>(random() & 0xff);
    }
    try {
      const Pickle pickle = read(changed);
      ASSERT_EQ(pickle.labels.size(), static_cast<std::size_t>(pickle.images));
      ASSERT_LE(pickle.data_offset + static_cast<std::uint64_t>(pickle.images) * 3072,
                changed.size());
    } catch (const EnvironmentError& error) {
      ++refused;
      ASSERT_THAT(error.what(), HasSubstr(path.string()));
    }
  }
  EXPECT_GT(refused, kRounds / 4);
  EXPECT_LT(refused, kRounds);
}

}  // namespace
}  // namespace backstop::cifar
