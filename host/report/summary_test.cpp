#include "host/report/summary.hpp"

#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Summary, GivesMeanSampleDeviationAndCount) {
  const auto run = [](const std::string& group, double accuracy, double success) {
    return FinishedRun{group, {{"rows", {sample_row("no defense", accuracy, success)}}}};
  };
  EXPECT_EQ(summary_table({run("a = 1", 0.9, 1.0), run("a = 2", 0.5, 0.5), run("a = 1", 0.94, 0.8)},
                          false),
            "a = 1\n"
            "defense        clean accuracy     attack success\n"
            "no defense  0.920 ± 0.028 (2)  0.900 ± 0.141 (2)\n"
            "\n"
            "a = 2\n"
            "defense     clean accuracy  attack success\n"
            "no defense       0.500 (1)       0.500 (1)\n"
            "\n"
            "mean ± sample standard deviation (number of runs)\n");
}

TEST(Summary, LeavesCollapsedModelsOutAndCountsThem) {
  const auto run = [](double accuracy, double success, const char* warning) {
    json row = sample_row("tuned", accuracy, success);
    if (warning != nullptr) row["warning"] = warning;
    return FinishedRun{"", {{"rows", {std::move(row)}}}};
  };
  const char* collapsed = "collapsed: predicts one class for 98 % of clean images";
  EXPECT_THAT(summary_table({run(0.9, 0.2, nullptr), run(0.1, 0.0, collapsed),
                             run(0.94, 0.4, "attack did not take: ...")},
                            false),
              HasSubstr("tuned    0.920 ± 0.028 (2 of 3 seeds; 1 collapsed)  0.300 ± 0.141 (2 of 3 "
                        "seeds; 1 collapsed)\n"));
  EXPECT_THAT(summary_table({run(0.1, 0.0, collapsed), run(0.9, 0.2, nullptr)}, false),
              HasSubstr("tuned    0.900 (1 of 2 seeds; 1 collapsed)"));
  EXPECT_THAT(summary_table({run(0.1, 0.0, collapsed)}, false),
              HasSubstr("tuned    - (0 of 1 seeds; 1 collapsed)"));
}

TEST(Summary, CountsTheRunsThatEndedBeforeARow) {
  const FinishedRun whole{"", {{"rows", {sample_row("tuned", 0.9, 0.2)}}}};
  for (const json& ended : {json{{"rows", json::array()}}, json::object()})
    EXPECT_THAT(summary_table({whole, {"", ended}}, false),
                HasSubstr("tuned    0.900 (1 of 2 seeds; 1 without a value)"));
  EXPECT_THAT(summary_table({{"a = 1", json::object()}}, false),
              HasSubstr("a = 1\ndefense  clean accuracy  attack success\nno run got as far as a "
                        "result\n"));
}

TEST(Summary, LeavesOutTheAttackSuccessOfDefensesWhereTheAttackDidNotTake) {
  const auto run = [](double success, const char* warning) {
    json undefended = sample_row("no defense", 0.9, success);
    if (warning != nullptr) undefended["warning"] = warning;
    return FinishedRun{"", {{"rows", {undefended, sample_row("tuned", 0.9, 0.2)}}}};
  };
  const std::string text =
      summary_table({run(1.0, nullptr), run(0.1, "attack did not take: ...")}, false);
  EXPECT_THAT(text, HasSubstr("0.550 ± 0.636 (2)\n")) << "what the attack did is what it did";
  EXPECT_THAT(text, HasSubstr("tuned       0.900 ± 0.000 (2)  0.200 (1 of 2 seeds; 1 without a "
                              "backdoor)\n"));
  EXPECT_THAT(summary_table({run(0.1, "attack did not take: ...")}, false),
              HasSubstr("- (0 of 1 seeds; 1 without a backdoor)\n"));
}

TEST(Summary, CountsTheRunsWithoutAValue) {
  json unmeasured = sample_row("tuned", 0.94, 0.2);
  unmeasured["metrics"]["attack_success_rate"] = nullptr;
  EXPECT_THAT(summary_table({{"", {{"rows", {sample_row("tuned", 0.9, 0.2)}}}},
                             {"", {{"rows", {unmeasured}}}}},
                            false),
              HasSubstr("tuned    0.920 ± 0.028 (2)  0.200 (1 of 2 seeds; 1 without a value)"));
}

TEST(Summary, GivesWhatPluginsRecordedAndDetected) {
  const auto run = [](double pruned, double rate, double auroc) {
    json row = sample_row("pruning", 0.9, 0.1);
    row["extra"] = {{"pruned", pruned}};
    row["detection"] = {{"true_positive_rate", rate}, {"false_positive_rate", nullptr}};
    return FinishedRun{"",
                       {{"rows", {sample_row("no defense", 0.9, 1.0), row}},
                        {"detectors",
                         {{{"name", "strip"},
                           {"inputs", {{"auroc", auroc}, {"tpr_at_1_fpr", nullptr}}},
                           {"extra", {{"overlays", 100}}}}}}}};
  };
  const std::string text = summary_table({run(10, 0.5, 0.8), run(12, 0.7, 0.9)}, false);
  EXPECT_THAT(text, HasSubstr("true positive rate\n"));
  EXPECT_THAT(text, HasSubstr("0.600 ± 0.141 (2)\n"));
  EXPECT_THAT(text, Not(HasSubstr("false positive rate")));
  EXPECT_THAT(text, HasSubstr("\npruning: pruned 11.000 ± 1.414 (2)\n"));
  EXPECT_THAT(text, HasSubstr("\nstrip: AUROC 0.850 ± 0.071 (2)\nstrip: overlays 100.000 ± 0.000 "
                              "(2)\n"));
  EXPECT_THAT(text, Not(HasSubstr("suspicious in")));
}

TEST(Summary, JudgesDetectorsOfModelsByCleanAndBackdooredOnes) {
  const auto run = [](bool backdoored, json score, const char* warning = nullptr) {
    json row = sample_row("no defense", 0.9, backdoored ? 1.0 : 0.1);
    if (warning != nullptr) row["warning"] = warning;
    json verdict = {{"suspicious", nullptr}, {"reason", "it took too long"}};
    if (!score.is_null())
      verdict = {{"score", score}, {"threshold", 2}, {"suspicious", score >= 2}};
    return FinishedRun{backdoored ? "badnets" : "none",
                       {{"rows", {row}},
                        {"backdoored", backdoored},
                        {"detectors", {{{"name", "judge"}, {"verdict", verdict}}}}}};
  };
  const std::vector<FinishedRun> clean = {run(false, 1.0), run(false, 2.5)};
  EXPECT_THAT(summary_table(clean, false), Not(HasSubstr("AUROC")));
  std::vector<FinishedRun> all = clean;
  all.push_back(run(true, 3.0));
  all.push_back(run(true, 2.5));
  all.push_back(run(true, nullptr));
  all.push_back(run(true, 0.1, "attack did not take: ..."));
  EXPECT_THAT(
      summary_table(all, false),
      HasSubstr("judge: AUROC 0.875 (2 clean models, 2 backdoored), detections 2 of 3, false "
                "alarms 1 of 2; no verdict: 1; left out, because the attack did not take: 1\n"));
}

}  // namespace
}  // namespace backstop::report
