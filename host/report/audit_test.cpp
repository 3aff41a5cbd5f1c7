#include "host/report/audit.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/expectations.hpp"
#include "host/report/html.hpp"
#include "host/report/sample_results.hpp"
#include "host/report/summary.hpp"
#include "host/report/table.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

json entry(const std::string& name, bool control, double retuned, const json& reach) {
  return {
      {"name", name},
      {"control", control},
      {"metrics",
       {{"clean_accuracy", 0.9},
        {"attack_success_rate", 0.05},
        {"retuned_attack_success_rate", retuned},
        {"path_reach", reach}}},
      {"counts", {{"clean", 10000}, {"triggered", 9000}}},
      {"path",
       {{{"t", 0.0}, {"attack_success_rate", 1.0}, {"clean_accuracy", 0.91}, {"target_loss", 0.01}},
        {{"t", 1.0},
         {"attack_success_rate", 0.05},
         {"clean_accuracy", 0.9},
         {"target_loss", 4.5}}}}};
}

json audited_results() {
  json results = sample_results();
  results["audits"] = {entry("fine-tuning", false, 0.97, 0.4),
                       entry("fine-tuning", true, 0.12, nullptr)};
  return results;
}

TEST(Audit, IsATableBelowTheResults) {
  const std::string text = result_table(audited_results(), false);
  EXPECT_THAT(text, HasSubstr(R"(
                          clean   attack         retuned   path
audit                  accuracy  success  attack success  reach
fine-tuning               0.900    0.050           0.970  0.400
fine-tuning (control)     0.900    0.050           0.120      -

retuned attack success: attack success after fine-tuning on a few clean images and a handful of poisoned ones (n = 9,000)
)"));
  EXPECT_THAT(text, Not(HasSubstr("fooling")));
  EXPECT_THAT(result_table(sample_results(), false), Not(HasSubstr("audit")));
}

TEST(Audit, SaysWhyThereAreNoNumbers) {
  json results = audited_results();
  results["audits"][0] = {{"name", "fine-tuning"}, {"control", false}, {"reason", "collapsed: x"}};
  EXPECT_THAT(audit_table(results, false),
              HasSubstr("warning: fine-tuning was not audited: collapsed: x"));
  results["audits"] = json::array();
  results["audit_reason"] = "attack did not take: 0.1";
  EXPECT_EQ(audit_table(results, false), "warning: no audit: attack did not take: 0.1\n");
}

TEST(Audit, IsInTwoCsvFiles) {
  EXPECT_EQ(audit_csv(audited_results()),
            "run,seed,model,control,clean_accuracy,attack_success_rate,retuned_attack_success_rate,"
            "retuned_clean_accuracy,path_reach,reactivated_attack_success_rate,"
            "perturbed_target_rate,universal_fooling_rate,adversarial_accuracy,reason\n"
            "quick<start>,7,fine-tuning,false,0.9,0.05,0.97,,0.4,,,,,\n"
            "quick<start>,7,fine-tuning,true,0.9,0.05,0.12,,,,,,,\n");
  EXPECT_THAT(audit_path_csv(audited_results()), HasSubstr("\nfine-tuning,true,1,0.05,0.9,4.5\n"));
  EXPECT_EQ(audit_csv(sample_results()), "");
  EXPECT_EQ(audit_path_csv(sample_results()), "");
}

TEST(Audit, MeetsExpectationsOfTheDefenseNotOfTheControl) {
  const json results = audited_results();
  const std::vector<Expectation> all = {
      {.row = "fine-tuning", .metric = "retuned_attack_success_rate", .minimum = 0.9},
      {.row = "fine-tuning", .metric = "adversarial_accuracy", .minimum = 0.0}};
  const json checked = check_expectations(results["rows"], all, json::array(), results["audits"]);
  EXPECT_EQ(checked[0]["value"], 0.97);
  EXPECT_TRUE(checked[0]["met"]);
  EXPECT_FALSE(checked[1]["met"]);
  EXPECT_THAT(checked[1]["reason"].get<std::string>(), HasSubstr("was not measured"));
}

TEST(Audit, IsInTheSummary) {
  json other = audited_results();
  other["audits"][0]["metrics"]["retuned_attack_success_rate"] = 0.77;
  const std::string text = summary_table({{"", audited_results()}, {"", other}}, false);
  EXPECT_THAT(text, HasSubstr("0.870 ± 0.141 (2)"));
  EXPECT_THAT(text, HasSubstr("fine-tuning (control)"));
  EXPECT_THAT(text, Not(HasSubstr("adversarial")));
  EXPECT_THAT(summary_table({{"", sample_results()}}, false), Not(HasSubstr("audit")));
}

TEST(Audit, HasAFigureWithACurveForEachModel) {
  const auto report_of = [](const nlohmann::json& results) {
    ReportContent content;
    content.results = results;
    return html_report(content);
  };
  const std::string html = report_of(audited_results());
  EXPECT_THAT(html, HasSubstr("<h2>Audit</h2>"));
  EXPECT_THAT(html, HasSubstr("<title>fine-tuning: attack success 0.05 at t 1</title>"));
  EXPECT_THAT(report_of(sample_results()), Not(HasSubstr("Audit")));
}

}  // namespace
}  // namespace backstop::report
