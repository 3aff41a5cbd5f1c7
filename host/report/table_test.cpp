#include "host/report/table.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Table, IsTheGoldenText) {
  EXPECT_EQ(
      result_table(sample_results(), false),
      R"(                         clean   attack         attack    robust       images        wall          CPU  samples    peak
defense               accuracy  success  success (all)  accuracy        given        time         time     seen  memory
no defense               0.912    1.000          1.000         -  3,000 clean  5 min 12 s  10 min 01 s  120,000    1 MB
fine-tuning              0.905    0.250          0.250         -  3,000 clean  5 min 12 s  10 min 01 s  120,000    1 MB
pruned, then "tuned"     0.900    0.012          0.012         -  3,000 clean  5 min 12 s  10 min 01 s  120,000    1 MB

clean accuracy: clean test images classified correctly (n = 10,000)
attack success: triggered test images classified as their target, excluding images of the target class (n = 9,000)
attack success (all): the same, including images of the target class (n = 10,000)
robust accuracy: triggered test images still classified as their true label, excluding images of the target class (n = 9,000)
time excludes evaluation; memory is the resident set of the whole process
trigger: PSNR 20.1 dB, SSIM 0.891 (means over the test images)

pruned, then "tuned" flagged 6,100 training images: true positive rate 0.980, false positive rate 0.010
pruned, then "tuned": pruned 12

expectations
  not met  fine-tuning: attack_success_rate is 0.2500, expected at most 0.1
  met      no defense: clean_accuracy is 0.9120, expected at least 0.5 and at most 1
)");
}

TEST(Table, SaysThatATriggerChangesNothing) {
  json clean = sample_results();
  clean["rows"][0]["trigger"] = {{"psnr", nullptr}, {"ssim", 1.0}};
  EXPECT_THAT(result_table(clean, false), HasSubstr("trigger: changes no test image\n"));
}

TEST(Table, MarksTheBestOfTheDefensesInEachColumn) {
  const std::string text = result_table(sample_results(), true);
  EXPECT_THAT(text, AllOf(HasSubstr("\033[1m0.905"), HasSubstr("\033[1m0.012"),
                          Not(HasSubstr("\033[1m0.912")), Not(HasSubstr("\033[1m0.900")),
                          Not(HasSubstr("\033[1m0.250")), HasSubstr("\033[31mnot met")));
}

TEST(Table, CountsTheGpusTimeWhereThereIsOne) {
  json measured = sample_results();
  EXPECT_EQ(lay_out_results(measured).header.at(7), "CPU time");
  measured["rows"][1]["cost"]["gpu_seconds"] = 80.0;
  const auto table = lay_out_results(measured);
  EXPECT_EQ(table.header.at(7), "GPU time");
  EXPECT_EQ(table.rows.at(1).cells.at(7), "1 min 20 s");
}

json points(const std::vector<int>& epochs) {
  json list = json::array();
  for (const int epoch : epochs)
    list.push_back(
        {{"epoch", epoch}, {"clean_accuracy", 0.5}, {"attack_success_rate", 0.001 * epoch}});
  return list;
}

TEST(Table, ShowsCurvesByEpoch) {
  json measured = sample_results();
  measured["rows"][0]["by_epoch"] = points({0, 1, 2});
  measured["rows"][1]["by_epoch"] = points({0, 2});
  EXPECT_THAT(result_table(measured, false), HasSubstr(R"(
clean accuracy and attack success by epoch
epoch                  0            1            2
no defense   0.500 0.000  0.500 0.001  0.500 0.002
fine-tuning  0.500 0.000               0.500 0.002
)"));
  std::vector<int> all(101);
  std::iota(all.begin(), all.end(), 0);
  measured["rows"][0]["by_epoch"] = points(all);
  EXPECT_EQ(lay_out_results(measured).curves[0],
            (std::vector<std::string>{"epoch", "0", "1", "2", "4", "7", "14", "27", "52", "100"}));
}

TEST(Table, SaysWhereATriggerLeadsAfterATransfer) {
  json measured = sample_results();
  measured["rows"][0]["measured_on"] = "cifar100";
  json& adapted = measured["rows"][1];
  adapted["measured_on"] = "cifar10";
  adapted["metrics"].update({{"attack_class", 3}, {"attack_class_clean_share", 0.11}});
  adapted["attack_class_name"] = "cat";
  EXPECT_THAT(
      result_table(measured, false),
      AllOf(HasSubstr("these definitions hold for \"no defense\", measured on cifar100; the "
                      "other rows are measured on cifar10, where\nattack success: "),
            HasSubstr("fine-tuning: 0.250 of the triggered images and 0.110 of the clean "
                      "images are classified as class 3 (cat)\n")));
}

TEST(Table, SaysWhatADefenderWasGiven) {
  json measured = sample_results();
  const auto given = [&](std::int64_t clean, std::int64_t training) {
    measured["rows"][1]["given"] = {{"clean_images", clean}, {"training_images", training}};
    return lay_out_results(measured).rows.at(1).cells.at(5);
  };
  EXPECT_EQ(given(2500, 0), "2,500 clean");
  EXPECT_EQ(given(0, 50000), "50,000 training");
  EXPECT_EQ(given(1, 2), "1 clean + 2 training");
  EXPECT_EQ(given(0, 0), "-");
}

TEST(Table, ShowsWhatIsNotThereAsADash) {
  json one = {{"rows", {{{"name", "no defense"}}}}};
  const auto table = lay_out_results(one);
  EXPECT_EQ(table.rows.at(0).cells,
            (std::vector<std::string>{"no defense", "-", "-", "-", "-", "-", "-", "-", "-", "-"}));
  EXPECT_TRUE(table.expectations.empty());
}

TEST(Table, MarksARowWithAWarningAndGivesTheReason) {
  EXPECT_THAT(
      result_table(collapsed_results(), false),
      AllOf(HasSubstr("\npruned, then \"tuned\" (!)     0.900    0.012 "),
            HasSubstr("1 MB\n\nwarning: pruned, then \"tuned\": collapsed: predicts one class "
                      "for 98 % of clean images\n\nclean accuracy: ")));
}

TEST(Table, ARowWithAWarningIsNeverTheBest) {
  const auto table = lay_out_results(collapsed_results());
  EXPECT_EQ(std::count(table.rows[2].best.begin(), table.rows[2].best.end(), true), 0);
  EXPECT_TRUE(table.rows[1].best.at(2)) << "attack success 0.25 is the best of what is left";
  EXPECT_THAT(result_table(collapsed_results(), true),
              AllOf(HasSubstr("\033[1m0.250"), Not(HasSubstr("\033[1m0.012")),
                    HasSubstr("\033[33mwarning:\033[0m pruned")));
}

TEST(Table, NoDefenseIsBestAgainstAnAttackThatDidNotTake) {
  json results = sample_results();
  results["rows"][0]["warning"] = "attack did not take: ...";
  const auto table = lay_out_results(results);
  EXPECT_TRUE(table.rows[1].best.at(1)) << "clean accuracy";
  for (const auto& row : table.rows)
    for (const std::size_t column : {2U, 3U, 4U}) EXPECT_FALSE(row.best.at(column));
}

TEST(Table, TakesTheNumberOfImagesFromTheFirstRowThatIsMeasured) {
  json results = sample_results();
  results["rows"][0]["counts"] = {{"not_finite_weights", 7}};
  EXPECT_THAT(result_table(results, false), HasSubstr("correctly (n = 10,000)\n"));
}

TEST(Table, ShowsNothingWhereThereIsNothing) {
  EXPECT_TRUE(lay_out_results({{"rows", json::array()}}).rows.empty());
  EXPECT_TRUE(lay_out_results(json::object()).rows.empty());
}

TEST(Table, SaysWhyAnExpectationIsNotMet) {
  json measured = sample_results();
  measured["expectations"][0].update({{"value", nullptr}, {"reason", "it was not measured"}});
  EXPECT_THAT(result_table(measured, false),
              HasSubstr("fine-tuning: attack_success_rate is unknown, expected at most 0.1 (it was "
                        "not measured)\n"));
}

}  // namespace
}  // namespace backstop::report
