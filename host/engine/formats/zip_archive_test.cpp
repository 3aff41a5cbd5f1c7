#include "host/engine/formats/zip_archive.hpp"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/files.hpp"
#include "host/engine/formats/testing.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
using namespace testing;
using ::testing::HasSubstr;

class Zip : public ::testing::Test {
 protected:
  /// The content of the entry, or what is wrong.
  [[nodiscard]] std::string content(const std::string& bytes, const std::string& name = "a/x",
                                    std::uint64_t most = 1000) const {
    const InputFile file(folder_.write("a.zip", bytes));
    std::string result;
    const std::string why = problem([&] {
      const ZipArchive archive(file);
      const ZipEntry* entry = archive.find(name);
      result = entry ? archive.read(*entry, most) : "no entry";
    });
    return why == "none" ? result : why;
  }
  /// With the little-endian number at `place` behind the first `signature`.
  static std::string with(std::string bytes, const std::string& signature, std::size_t place,
                          std::uint64_t value, int size) {
    return bytes.replace(bytes.find(signature) + place, static_cast<std::size_t>(size),
                         number(value, size));
  }

  Folder folder_;
  const std::string good_ = zip({{"a/x", "content"}, {"a/y", "other"}});
};

TEST_F(Zip, ReadsStoredAndDeflatedEntries) {
  const std::string long_text(500, 'x');
  for (const bool zip64 : {false, true})
    for (const bool deflated : {false, true}) {
      const std::string bytes =
          zip({{"a/x", long_text, deflated}, {"a/y", "", deflated, true}}, zip64);
      EXPECT_EQ(content(bytes), long_text) << zip64 << deflated;
      EXPECT_EQ(content(bytes, "a/y"), "") << zip64 << deflated;
      EXPECT_EQ(content(bytes, "a/z"), "no entry");
    }
}

TEST_F(Zip, AllowsAComment) {
  std::string bytes = good_;
  bytes.replace(bytes.size() - 2, 2, number(7, 2));
  EXPECT_EQ(content(bytes + "comment"), "content");
  EXPECT_THAT(content(bytes + "commen"), HasSubstr("has no directory at its end"));
}

TEST_F(Zip, RefusesMoreThanIsAllowed) {
  EXPECT_THAT(content(good_, "a/x", 6), HasSubstr("`a/x` has 7 bytes; at most 6 are allowed"));
}

TEST_F(Zip, RefusesBombs) {
  const std::string megabyte(1 << 20, '\0');
  EXPECT_EQ(content(zip({{"a/x", megabyte, true}}), "a/x", megabyte.size()), megabyte);
  EXPECT_THAT(content(zip({{"a/x", megabyte, true}}), "a/x", 1000),
              HasSubstr("`a/x` has 1048576 bytes; at most 1000 are allowed"));
  // A size that is a lie, in either direction.
  const std::string small = zip({{"a/x", std::string(500, 'x'), true}});
  EXPECT_THAT(content(with(small, "PK\x01\x02", 24, 10'000'000'000, 4)),
              HasSubstr("claims that 8 bytes of `a/x` hold 1410065408"));
  EXPECT_THAT(content(with(small, "PK\x01\x02", 24, 499, 4)), HasSubstr("does not hold 499 bytes"));
  EXPECT_THAT(content(with(small, "PK\x01\x02", 24, 501, 4)), HasSubstr("does not hold 501 bytes"));
}

TEST_F(Zip, RefusesNamesThatLeaveTheFolder) {
  for (const std::string name : {"../x", "a/../../x", "/etc/x", "a\\..\\x", "C:/x", ".."})
    EXPECT_THAT(content(zip({{name, "content"}})), HasSubstr("has an entry that leaves its folder"))
        << name;
  EXPECT_THAT(content(zip({{"a/..b", "content"}}), "a/..b"), "content");
  EXPECT_THAT(content(zip({{"", "content"}})), HasSubstr("a name of 0 bytes; 1 to 4096"));
}

TEST_F(Zip, RefusesTwoEntriesOfOneName) {
  EXPECT_THAT(content(zip({{"a/x", "content"}, {"a/x", "other"}})),
              HasSubstr("has two entries of the name `a/x`"));
}

TEST_F(Zip, RefusesEntriesThatOverlap) {
  // The second entry lies within the content of the first.
  const std::string inner = zip({{"b", "content"}});
  std::string bytes = zip({{"a", inner}, {"b", "content"}});
  bytes =
      with(bytes, "PK\x01\x02" + bytes.substr(bytes.rfind("PK\x01\x02") + 4, 4), 0, 0x02014b50, 4);
  const std::size_t second = bytes.rfind("PK\x01\x02");
  bytes.replace(second + 42, 4, number(bytes.find(inner), 4));
  EXPECT_THAT(content(bytes, "b"), HasSubstr("has entries that overlap: `a` and `b`"));
}

TEST_F(Zip, RefusesWhatLiesOutside) {
  EXPECT_THAT(content(with(good_, "PK\x01\x02", 42, 100'000, 4)),
              HasSubstr("has `a/x` at bytes 100000 and following, outside of the"));
  EXPECT_THAT(content(with(good_, "PK\x01\x02", 42, 1, 4)),
              HasSubstr("has no entry where `a/x` should be"));
  EXPECT_THAT(
      content(with(with(good_, "PK\x01\x02", 20, 1'000'000, 4), "PK\x01\x02", 24, 1'000'000, 4)),
      HasSubstr("outside of the"));
  EXPECT_THAT(content(with(good_, "PK\x05\x06", 16, 4'000'000'000, 4)),
              HasSubstr("has a directory of"));
  EXPECT_THAT(content(with(good_, "PK\x05\x06", 10, 3, 2)),
              HasSubstr("has 2 entries in its directory, not 3"));
  EXPECT_THAT(content(with(good_, "PK\x05\x06", 10, 1, 2)), HasSubstr("has more than 1 entries"));
  EXPECT_THAT(content(with(zip({{"a/x", "content"}}, true), "PK\x06\x07", 8, ~0ULL, 8)),
              HasSubstr("has its zip64 directory at byte 18446744073709551615"));
}

TEST_F(Zip, RefusesWhatItCannotRead) {
  EXPECT_THAT(content(with(good_, "PK\x01\x02", 8, 1, 2)), HasSubstr("is encrypted: `a/x`"));
  EXPECT_THAT(content(with(good_, "PK\x01\x02", 10, 12, 2)),
              HasSubstr("compresses `a/x` by method 12"));
  EXPECT_THAT(content(with(good_, "PK\x05\x06", 4, 1, 2)), HasSubstr("is one part of several"));
}

TEST_F(Zip, NoticesAChangedContent) {
  std::string bytes = good_;
  bytes[bytes.find("content")] = 'C';
  EXPECT_THAT(content(bytes), HasSubstr("the CRC-32 of `a/x` is"));
  EXPECT_EQ(content(bytes, "a/y"), "other");
}

TEST_F(Zip, NamesTheSameEntryInBothPlaces) {
  std::string bytes = good_;
  bytes[bytes.find("a/x")] = 'b';  // in front of the content
  EXPECT_THAT(content(bytes), HasSubstr("describes `a/x` in two ways"));
}

TEST_F(Zip, ReplacesAContent) {
  for (const bool descriptor : {false, true}) {
    const std::string bytes =
        zip({{"a/x", "content", false, descriptor}, {"a/y", "other", false, descriptor}});
    const InputFile file(folder_.write("a.zip", bytes));
    const ZipArchive archive(file);
    Patches patches;
    archive.replace(*archive.find("a/x"), "changed", patches);
    std::string changed = bytes;
    for (const auto& [offset, patch] : patches) changed.replace(offset, patch.size(), patch);
    EXPECT_EQ(changed,
              zip({{"a/x", "changed", false, descriptor}, {"a/y", "other", false, descriptor}}))
        << descriptor;
  }
}

TEST_F(Zip, DoesNotReplaceWhatIsCompressed) {
  const InputFile file(folder_.write("a.zip", zip({{"a/x", "content", true}})));
  const ZipArchive archive(file);
  Patches patches;
  EXPECT_THAT(problem([&] { archive.replace(*archive.find("a/x"), "changed", patches); }),
              HasSubstr("`a/x` is compressed, and cannot be written in place"));
}

TEST_F(Zip, SurvivesAnyDamage) {
  const std::string whole =
      zip({{"a/x", "content", true}, {"a/y", "other", false, true}}, true) + "";
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    if (i % 3 == 0) bytes.resize(random() % bytes.size());
    for (std::size_t n = random() % 4; n > 0 && !bytes.empty(); --n)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    refused += content(bytes) == "content" ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
  EXPECT_LT(refused, 2000);
}

TEST_F(Zip, WritesNothing) {
  static_cast<void>(content(zip({{"../escaped", "content"}, {"a/x", "content"}})));
  EXPECT_FALSE(fs::exists(folder_.path().parent_path() / "escaped"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1);
}

}  // namespace
}  // namespace backstop::engine
