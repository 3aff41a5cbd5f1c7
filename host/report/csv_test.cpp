#include "host/report/csv.hpp"

#include <algorithm>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Csv, HasOneLinePerRowWithQuotedFields) {
  const std::string text = results_csv(sample_results());
  EXPECT_THAT(text, AllOf(HasSubstr("run,seed,defense,plugin,clean_images,"),
                          HasSubstr(",peak_memory_bytes,pruned,warning\n"),
                          HasSubstr("\nquick<start>,7,no defense,,3000,0,0.912,1,1,,0,10000,"),
                          HasSubstr("\nquick<start>,7,\"pruned, then \"\"tuned\"\"\",,"),
                          HasSubstr(",0.98,0.01,6100,")));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
}

TEST(Csv, EndsEachLineWithTheWarning) {
  EXPECT_THAT(
      results_csv(collapsed_results()),
      AllOf(HasSubstr(",1000000,12,collapsed: predicts one class for 98 % of clean images\n"),
            HasSubstr(",1000000,,\n")));
}

TEST(Csv, TextIsNoFormula) {
  nlohmann::json results = sample_results();
  results["name"] = "=1+1";
  auto& row = results["rows"][0];
  row["name"] = "+cmd";
  row["plugin"] = "@sum";
  row["warning"] = "-2,\"x\"";
  row["extra"] = {{"\ttab", -0.5}, {"\rreturn", -3}, {"-minus", "-1"}, {"caf\xE9", 1}};
  EXPECT_THAT(results_csv(results),
              AllOf(HasSubstr(",'-minus,"), HasSubstr(",'\ttab"), HasSubstr(",\"'\rreturn\""),
                    HasSubstr(",caf\uFFFD,"), HasSubstr("\n'=1+1,7,'+cmd,'@sum,"),
                    HasSubstr(",\"'-2,\"\"x\"\"\"\n")));
  EXPECT_THAT(results_csv(results),
              AllOf(HasSubstr(",-0.5,"), HasSubstr(",-3,"), HasSubstr(",'-1,")))
      << "numbers stay numbers";
}

TEST(Csv, DetectorsHaveOneLineEach) {
  const nlohmann::json results = {
      {"name", "run"},
      {"seed", 1},
      {"detectors",
       {{{"name", "judge"},
         {"plugin", "nc"},
         {"given", {{"clean_images", 20}}},
         {"verdict",
          {{"score", 3.5},
           {"threshold", 2},
           {"suspicious", true},
           {"suspects", {{{"class", "cat"}}, {{"class", "dog"}}}}}},
         {"extra", {{"anomaly_index", 3.5}}}},
        {{"name", "filter"},
         {"plugin", "strip"},
         {"inputs", {{"auroc", 0.9}, {"threshold", -0.5}, {"clean", 100}, {"triggered", 90}}}},
        {{"name", "broken"}, {"plugin", "strip"}, {"error", "it threw"}}}}};
  EXPECT_EQ(
      detectors_csv(results),
      "run,seed,detector,plugin,clean_images,score,score_threshold,suspicious,auroc,tpr_at_1_fpr,"
      "tpr_at_5_fpr,true_positive_rate,false_positive_rate,auroc_successful,input_threshold,"
      "clean_test_images,triggered_test_images,successful_test_images,wall_seconds,cpu_seconds,"
      "anomaly_index,suspects,error\n"
      "run,1,judge,nc,20,3.5,2,true,,,,,,,,,,,,,3.5,\"cat, dog\",\n"
      "run,1,filter,strip,,,,,0.9,,,,,,-0.5,100,90,,,,,,\n"
      "run,1,broken,strip,,,,,,,,,,,,,,,,,,,it threw\n");
}

}  // namespace
}  // namespace backstop::report
