#include "host/base/text.hpp"

#include <gtest/gtest.h>

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
