#include "host/base/text.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"

namespace backstop::base {
namespace {

TEST(Text, NumbersAreTheSameInEveryLocale) {
  EXPECT_EQ(fixed(0.5, 3), "0.500");
  EXPECT_EQ(fixed(-0.0004, 2), "-0.00");
  EXPECT_EQ(shortest(0.1), "0.1");
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(-1234567), "-1,234,567");
  EXPECT_EQ(grouped(-100), "-100");
}

TEST(Text, DurationsAreReadable) {
  EXPECT_EQ(duration(0), "0.0 s");
  EXPECT_EQ(duration(59.94), "59.9 s");
  EXPECT_EQ(duration(59.96), "1 min 00 s");
  EXPECT_EQ(duration(3599.4), "59 min 59 s");
  EXPECT_EQ(duration(7500), "2 h 05 min");
}

TEST(Text, ControlCharactersAreReplaced) {
  EXPECT_EQ(printable("a\033[2Jb\nc\x7f"), "a?[2Jb?c?");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m ü"),
            "?31m ü");
  EXPECT_EQ(printable("a\n\033b\t\n", "\n"), "a\n?b?\n");
}

TEST(Text, InvisibleCharactersAreReplaced) {
  // Right-to-left override, isolate, marks; zero width; separators of lines and paragraphs; tags.
  for (const char* hidden : {"\u202E", "\u2066", "\u200F", "\u061C", "\u200B", "\u200D", "\u2060",
                             "\uFEFF", "\u2028", "\u2029", "\U000E0041"})
    EXPECT_EQ(printable("a" + std::string(hidden) + "b"), "a?b") << hidden;
  EXPECT_EQ(printable("\u2010 \u2030 \u4E2D \U0001F600"), "\u2010 \u2030 \u4E2D \U0001F600");
  EXPECT_EQ(with_visible_controls("a\u202Eb\n\x1b\xff"), "a[U+202E]b\n[U+001B]\uFFFD");
}

TEST(Text, BytesThatAreNotUtf8AreReplaced) {
  EXPECT_EQ(valid_utf8("\u00FC \u4E2D \U0001F600"), "\u00FC \u4E2D \U0001F600");
  EXPECT_EQ(valid_utf8("caf\xE9.png"), "caf\uFFFD.png");
  EXPECT_EQ(valid_utf8("\xC3"), "\uFFFD") << "cut off";
  EXPECT_EQ(valid_utf8("\xC0\xAF"), "\uFFFD\uFFFD") << "longer than it has to be";
  EXPECT_EQ(valid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD") << "half of a surrogate pair";
  EXPECT_EQ(valid_utf8("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD") << "beyond U+10FFFF";
  EXPECT_EQ(printable("caf\xE9"), "caf?");
  EXPECT_EQ(json_text({{"name", "caf\xE9"}}), "{\"name\":\"caf\uFFFD\"}");
}

TEST(Text, AMessageDoesNotEndAtAZeroByte) {
  const HostError error(ExitCode::plugin, std::string("a\0b", 3));
  EXPECT_STREQ(error.what(), "a?b");
}

TEST(Text, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(shortened("short", 5), "short");
  EXPECT_EQ(shortened("longer", 5), "longe...");
  EXPECT_EQ(shortened("abcdü", 5), "abcd...");
}

TEST(Text, ListsHaveCommas) {
  EXPECT_EQ(list_of({}), "");
  EXPECT_EQ(list_of({"a", "b"}), "a, b");
  EXPECT_EQ(list_of({"a", "b"}, ticked), "`a`, `b`");
}

TEST(Text, ColumnsCountCharactersNotBytes) {
  EXPECT_EQ(columns({{{"ü"}, {"1"}}, {{"ab"}, {"22"}}, {{"c"}, {}}}, "lr"), "ü    1\nab  22\nc\n");
}

TEST(Text, AHeadingDoesNotWidenItsColumn) {
  EXPECT_EQ(columns({{{"heading"}}, {{"a"}, {"1"}}}, "lr"), "heading\na  1\n");
}

TEST(Nearest, TakesTheSmallestDistance) {
  EXPECT_EQ(nearest("badnet", {"blended", "badnets", "wanet"}), "badnets");
  EXPECT_EQ(nearest("widht", {"width", "height"}), "width");
  EXPECT_EQ(nearest("super-fine-tunning-x", {"super-fine-tuning", "fine-tuning"}),
            "super-fine-tuning");
}

TEST(Nearest, IsSilentWhereNothingIsSimilar) {
  EXPECT_EQ(nearest("epochs", {"rate", "milestones"}), std::nullopt);
  EXPECT_EQ(nearest("xy", {"ab"}), std::nullopt);
  EXPECT_EQ(nearest("", {"a", "b"}), std::nullopt);
  EXPECT_EQ(nearest("anything", {}), std::nullopt);
}

}  // namespace
}  // namespace backstop::base
