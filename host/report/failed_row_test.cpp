// A row whose stage failed, in everything that is made of the results.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/csv.hpp"
#include "host/report/expectations.hpp"
#include "host/report/html.hpp"
#include "host/report/sample_results.hpp"
#include "host/report/summary.hpp"
#include "host/report/table.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// The second of three rows has failed.
json results_with_a_failure() {
  json results = sample_results();
  results["rows"][1] = failed_row("fine-tuning", "fine-tuning", "out of <memory>");
  results["expectations"] = json::array();
  return results;
}

/// The attack has failed, and no defense was run.
json results_of_a_failed_attack() {
  json results = sample_results();
  results["rows"] = {failed_row("no defense", nullptr, "the loss is not finite")};
  results["expectations"] = json::array();
  return results;
}

TEST(FailedRow, HasTheErrorAndNothingElse) {
  const json row = failed_row("tuned", "fine-tuning", "does not fit:\n  conv1 is missing");
  EXPECT_EQ(row, json({{"name", "tuned"},
                       {"plugin", "fine-tuning"},
                       {"error", "does not fit:\n  conv1 is missing"},
                       {"warning", "failed: does not fit:   conv1 is missing"}}));
  EXPECT_TRUE(has_failed(row));
  EXPECT_FALSE(has_collapsed(row));
  EXPECT_TRUE(is_void(row));
  EXPECT_FALSE(has_failed(sample_row("tuned", 0.9, 0.1)));
}

TEST(FailedRow, IsDashesInTheTable) {
  const auto table = lay_out_results(results_with_a_failure());
  EXPECT_EQ(table.rows.at(1).cells, (std::vector<std::string>{"fine-tuning (!)", "-", "-", "-", "-",
                                                              "-", "-", "-", "-", "-"}));
  EXPECT_EQ(std::count(table.rows[1].best.begin(), table.rows[1].best.end(), true), 0);
  EXPECT_TRUE(table.rows[2].best.at(1)) << "the best of what is left";
  EXPECT_THAT(result_table(results_with_a_failure(), false),
              AllOf(HasSubstr("\nwarning: fine-tuning: failed: out of <memory>\n"),
                    HasSubstr("correctly (n = 10,000)\n")));
}

TEST(FailedRow, OfAnAttackIsTheWholeTable) {
  EXPECT_THAT(result_table(results_of_a_failed_attack(), false),
              AllOf(HasSubstr("\nno defense (!)         -"),
                    HasSubstr("\nwarning: no defense: failed: the loss is not finite\n")));
}

TEST(FailedRow, IsInTheReport) {
  ReportContent content;
  content.results = results_with_a_failure();
  EXPECT_THAT(
      html_report(content),
      AllOf(HasSubstr("<tr class=\"warning\"><th scope=\"row\">fine-tuning (!)</th><td>-</td>"),
            HasSubstr("<p class=\"warning\">warning: fine-tuning: failed: out of "
                      "&lt;memory&gt;</p>")));
  content.results = results_of_a_failed_attack();
  EXPECT_THAT(html_report(content), HasSubstr("failed: the loss is not finite</p>"));
}

TEST(FailedRow, IsALineOfCommasInTheCsv) {
  EXPECT_THAT(results_csv(results_with_a_failure()),
              ::testing::ContainsRegex(
                  "\nquick<start>,7,fine-tuning,fine-tuning,,+failed: out of <memory>\n"));
}

TEST(FailedRow, MeetsNoExpectation) {
  const json rows = results_with_a_failure()["rows"];
  for (const char* metric : {"clean_accuracy", "attack_success_rate", "clean_accuracy_drop"}) {
    const auto entry = check_expectations(rows, {{"fine-tuning", metric, {}, 1.0}}).at(0);
    EXPECT_FALSE(entry["met"]) << metric;
    EXPECT_TRUE(entry["value"].is_null()) << metric;
    EXPECT_EQ(entry["reason"], "failed: out of <memory>") << metric;
  }
  EXPECT_TRUE(check_expectations(rows, {{"no defense", "clean_accuracy", 0.5, {}}}).at(0)["met"]);
}

TEST(FailedRow, OfAnAttackIsWhyTheDefensesHaveNoRow) {
  const json rows = results_of_a_failed_attack()["rows"];
  EXPECT_EQ(check_expectations(rows, {{"fine-tuning", "clean_accuracy", 0.5, {}}}).at(0)["reason"],
            "\"no defense\": failed: the loss is not finite");
}

TEST(FailedRow, IsInNoMean) {
  const auto run = [](json row) { return FinishedRun{"", {{"rows", {std::move(row)}}}}; };
  const json failed = failed_row("tuned", "fine-tuning", "out of memory");
  json collapsed = sample_row("tuned", 0.1, 0.0);
  collapsed["warning"] = "collapsed: ...";
  EXPECT_THAT(summary_table({run(sample_row("tuned", 0.9, 0.2)), run(failed),
                             run(sample_row("tuned", 0.94, 0.2))},
                            false),
              HasSubstr("tuned    0.920 ± 0.028 (2 of 3 seeds; 1 failed)"));
  EXPECT_THAT(summary_table({run(failed), run(collapsed)}, false),
              HasSubstr("tuned    - (0 of 2 seeds; 1 collapsed, 1 failed)"));
}

}  // namespace
}  // namespace backstop::report
