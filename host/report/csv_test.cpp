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

}  // namespace
}  // namespace backstop::report
