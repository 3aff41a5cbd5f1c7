#include "host/report/summary.hpp"

#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

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

}  // namespace
}  // namespace backstop::report
