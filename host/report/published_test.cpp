#include "host/report/published.hpp"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/report/study_fixture.hpp"

namespace backstop::report {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;
using ::testing::SizeIs;

constexpr const char* kHeader = "attack,defense,dataset,test_acc,test_asr,test_ra\n";

TEST(Published, SaysWhetherItsValuesArePercentages) {
  const Published percent =
      parse_published(std::string(kHeader) + "badnet,ft,cifar10,91.5,0.5,88\n", "x.csv");
  EXPECT_TRUE(percent.percent);
  ASSERT_THAT(percent.lines, SizeIs(1));
  EXPECT_THAT(percent.lines[0].values,
              ElementsAre(Optional(0.915), Optional(0.005), Optional(0.88)));
  const Published shares =
      parse_published(std::string(kHeader) + "badnet,ft,cifar10,0.915,1,\n", "x.csv");
  EXPECT_FALSE(shares.percent);
  EXPECT_THAT(shares.lines[0].values,
              ElementsAre(Optional(0.915), Optional(1.0), std::optional<double>()));
}

TEST(Published, ReadsColumnsInAnyOrderWithOthersBetween) {
  const Published published = parse_published(
      "\xEF\xBB\xBFmodel,Test_ASR,dataset,\"defense\",test_ra,test_acc,attack\r\n"
      "\"preact, 18\",0.1,cifar10,\"f\"\"t\",0.2,0.3, badnet \r\n",
      "x.csv");
  ASSERT_THAT(published.lines, SizeIs(1));
  EXPECT_EQ(published.lines[0].attack, "badnet");
  EXPECT_EQ(published.lines[0].defense, "f\"t");
  EXPECT_THAT(published.lines[0].values, ElementsAre(Optional(0.3), Optional(0.1), Optional(0.2)));
}

TEST(Published, RefusesAFileWithoutItsColumns) {
  for (const char* text : {"", "a,b\n", "attack,defense,dataset,test_acc,test_asr\n", "\0\1\2"})
    EXPECT_THROW((void)parse_published(text, "x.csv"), base::HostError) << text;
}

TEST(Published, LeavesOutLinesThatHaveNoNumbers) {
  std::string text = kHeader;
  text += "badnet,ft,cifar10,0.9,0.1,0.8\nbadnet,ft,cifar10,x,0.1,0.8\nbadnet,ft\n";
  text += "badnet,ft,cifar10,1e999,0.1,0.8\nbadnet,ft,cifar10,-1,0.1,0.8\n\"open,";
  const Published published = parse_published(text, "x.csv");
  EXPECT_THAT(published.lines, SizeIs(1));
  EXPECT_THAT(published.notes, SizeIs(5));
  EXPECT_THAT(published.notes[0], HasSubstr("line 3 of x.csv"));
}

class PublishedBesideMeasured : public StudyTest {};

TEST_F(PublishedBesideMeasured, MatchesOtherSpellings) {
  write_run("a", {});
  const Study study = make_study(find_runs({path()}), {});
  const StudyTable table = published_table(
      study, parse_published(std::string(kHeader) + "BadNet,FP,CIFAR-10,0.90,0.40,0.5\n"
                                                    "badnet,super-ft,cifar10,0.90,0.1,0.5\n"
                                                    "badnet,ft,cifar10,0.90,0.1,0.5\n"
                                                    "badnets,No Defense,cifar10,0.90,1,\n"
                                                    "trojannn,ft,cifar10,0.90,0.1,0.5\n"
                                                    "badnet,fp,tiny,0.90,0.1,0.5\n",
                             "board.csv"));
  const auto texts = [&](std::size_t line) {
    std::vector<std::string> cells;
    for (const auto& cell : table.lines.at(line).cells) cells.push_back(cell.text);
    return cells;
  };
  ASSERT_THAT(table.lines, SizeIs(3));
  EXPECT_THAT(texts(0),
              ElementsAre("cifar10", "badnets", "no defense", "badnets, No Defense", "0.900",
                          "0.900", "0.000", "1.000", "0.980", "−0.020", "-", "-", "-"));
  EXPECT_THAT(texts(1), Contains("badnet, super-ft"));
  EXPECT_THAT(texts(1), Contains("+0.100"));
  EXPECT_THAT(texts(2), Contains("BadNet, FP"));
  EXPECT_THAT(csv_of(table),
              HasSubstr("\ncifar10,badnets,no defense,\"badnets, No Defense\",0.9,0.9,0,1,0.98,"));
  EXPECT_EQ(json_of(table)["rows"][1]["ASR published"], 0.1);
  EXPECT_EQ(json_of(table)["rows"][0]["RA measured"], nullptr);
  // The row "tuned" is super-fine-tuning, and what is published as `ft` is not.
  EXPECT_THAT(table.notes, Contains("published attacks without a measured one: trojannn"));
  EXPECT_THAT(table.notes, Contains("published defenses without a measured one: ft"));
  EXPECT_THAT(table.notes, Contains("published datasets without a measured one: tiny"));
  EXPECT_THAT(table.notes, Contains(HasSubstr("shares, since none is above 1")));
}

}  // namespace
}  // namespace backstop::report
