#include <algorithm>
#include <numeric>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/text.hpp"
#include "host/report/csv.hpp"
#include "host/report/html.hpp"
#include "host/report/summary.hpp"
#include "host/report/table.hpp"

namespace {

using namespace backstop;
using namespace backstop::report;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

json row(const std::string& name, double clean_accuracy, double attack_success) {
  return {{"name", name},
          {"plugin", nullptr},
          {"given", {{"clean_images", 3000}, {"training_images", 0}}},
          {"metrics",
           {{"clean_accuracy", clean_accuracy},
            {"attack_success_rate", attack_success},
            {"attack_success_rate_all", attack_success},
            {"robust_accuracy", nullptr},
            {"clean_accuracy_drop", 0.0}}},
          {"counts", {{"clean", 10000}, {"triggered", 9000}, {"triggered_all", 10000}}},
          {"extra", json::object()},
          {"cost",
           {{"wall_seconds", 312.4},
            {"cpu_seconds", 600.5},
            {"gpu_seconds", 0.0},
            {"evaluation_seconds", 2.0},
            {"samples_seen", 120000},
            {"peak_memory_bytes", 1000000}}}};
}

json results() {
  json undefended = row("no defense", 0.912, 1.0);
  undefended["trigger"] = {
      {"psnr", 20.14}, {"ssim", 0.8912}, {"changed_images", 10000}, {"images", 10000}};
  json tuned = row("fine-tuning", 0.905, 0.25);
  tuned["plugin"] = "fine-tuning";
  json pruned = row("pruned, then \"tuned\"", 0.9, 0.012);
  pruned["extra"] = {{"pruned", 12}};
  pruned["detection"] = {
      {"true_positive_rate", 0.98}, {"false_positive_rate", 0.01}, {"flagged", 6100}};
  return {{"schema", 1},
          {"name", "quick<start>"},
          {"seed", 7},
          {"rows", {undefended, tuned, pruned}},
          {"expectations",
           {{{"row", "fine-tuning"},
             {"metric", "attack_success_rate"},
             {"value", 0.25},
             {"minimum", nullptr},
             {"maximum", 0.1},
             {"met", false}},
            {{"row", "no defense"},
             {"metric", "clean_accuracy"},
             {"value", 0.912},
             {"minimum", 0.5},
             {"maximum", 1.0},
             {"met", true}}}}};
}

TEST(Text, NumbersAreTheSameInEveryLocale) {
  EXPECT_EQ(base::fixed(0.5, 3), "0.500");
  EXPECT_EQ(base::fixed(-0.0004, 2), "-0.00");
  EXPECT_EQ(base::shortest(0.1), "0.1");
  EXPECT_EQ(base::grouped(0), "0");
  EXPECT_EQ(base::grouped(999), "999");
  EXPECT_EQ(base::grouped(1000), "1,000");
  EXPECT_EQ(base::grouped(-1234567), "-1,234,567");
  EXPECT_EQ(base::grouped(-100), "-100");
}

TEST(Text, DurationsAreReadable) {
  EXPECT_EQ(base::duration(0), "0.0 s");
  EXPECT_EQ(base::duration(59.94), "59.9 s");
  EXPECT_EQ(base::duration(59.96), "1 min 00 s");
  EXPECT_EQ(base::duration(3599.4), "59 min 59 s");
  EXPECT_EQ(base::duration(7500), "2 h 05 min");
}

TEST(Text, ControlCharactersAreReplaced) {
  EXPECT_EQ(base::printable("a\033[2Jb\nc\x7f"), "a?[2Jb?c?");
  EXPECT_EQ(base::printable("\xC2\x9B"
                            "31m ü"),
            "?31m ü");
  EXPECT_EQ(base::printable("a\n\033b\n", "\n"), "a\n?b\n");
}

TEST(Text, ColumnsCountCharactersNotBytes) {
  EXPECT_EQ(base::columns({{{"ü"}, {"1"}}, {{"ab"}, {"22"}}, {{"c"}, {}}}, "lr"),
            "ü    1\nab  22\nc\n");
}

TEST(Text, AHeadingDoesNotWidenItsColumn) {
  EXPECT_EQ(base::columns({{{"heading"}}, {{"a"}, {"1"}}}, "lr"), "heading\na  1\n");
}

TEST(Table, IsTheGoldenText) {
  EXPECT_EQ(
      result_table(results(), false),
      R"(                         clean   attack         attack    robust       images        wall          CPU  samples    peak
defense               accuracy  success  success (all)  accuracy        given        time         time     seen  memory
no defense               0.912    1.000          1.000         -  3,000 clean  5 min 12 s  10 min 01 s  120,000    1 MB
fine-tuning              0.905    0.250          0.250         -  3,000 clean  5 min 12 s  10 min 01 s  120,000    1 MB
pruned, then "tuned"     0.900    0.012          0.012         -  3,000 clean  5 min 12 s  10 min 01 s  120,000    1 MB

attack success: triggered test images that go to their target, target-class images excluded (n = 9,000); (all): with them (n = 10,000)
clean accuracy: correct clean test images (n = 10,000); robust accuracy: triggered images that still go to their true label
time: without evaluation; memory: resident set of the whole process
trigger: PSNR 20.1 dB, SSIM 0.891 (means of the test images)

pruned, then "tuned" flagged 6,100 training images: true positive rate 0.980, false positive rate 0.010
pruned, then "tuned": pruned 12

expectations
  not met  fine-tuning: attack_success_rate is 0.2500, expected at most 0.1
  met      no defense: clean_accuracy is 0.9120, expected at least 0.5 and at most 1
)");
}

TEST(Table, SaysThatATriggerChangesNothing) {
  json clean = results();
  clean["rows"][0]["trigger"] = {{"psnr", nullptr}, {"ssim", 1.0}};
  EXPECT_THAT(result_table(clean, false), HasSubstr("trigger: changes no test image\n"));
}

TEST(Table, MarksTheBestOfTheDefensesInEachColumn) {
  const std::string text = result_table(results(), true);
  EXPECT_THAT(text, AllOf(HasSubstr("\033[1m0.905"), HasSubstr("\033[1m0.012"),
                          Not(HasSubstr("\033[1m0.912")), Not(HasSubstr("\033[1m0.900")),
                          Not(HasSubstr("\033[1m0.250")), HasSubstr("\033[31mnot met")));
}

TEST(Table, CountsTheGpusTimeWhereThereIsOne) {
  json measured = results();
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
  json measured = results();
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
  json measured = results();
  measured["rows"][0]["measured_on"] = "cifar100";
  json& adapted = measured["rows"][1];
  adapted["measured_on"] = "cifar10";
  adapted["metrics"].update({{"attack_class", 3}, {"attack_class_clean_share", 0.11}});
  adapted["attack_class_name"] = "cat";
  EXPECT_THAT(
      result_table(measured, false),
      AllOf(
          HasSubstr("all that is said of \"no defense\", on cifar100; the other rows, on cifar10"),
          HasSubstr("fine-tuning: of the triggered images 0.250 go to class 3 (cat), of the clean "
                    "ones 0.110\n")));
}

TEST(Table, SaysWhatADefenderWasGiven) {
  json measured = results();
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

TEST(Csv, HasOneLinePerRowWithQuotedFields) {
  const std::string text = results_csv(results());
  EXPECT_THAT(text, AllOf(HasSubstr("run,seed,defense,plugin,clean_images,"),
                          HasSubstr(",peak_memory_bytes,pruned\n"),
                          HasSubstr("\nquick<start>,7,no defense,,3000,0,0.912,1,1,,0,10000,"),
                          HasSubstr("\nquick<start>,7,\"pruned, then \"\"tuned\"\"\",,"),
                          HasSubstr(",0.98,0.01,6100,")));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
}

TEST(Html, EscapesEverything) {
  EXPECT_EQ(html_escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
  ReportContent content;
  content.results = results();
  content.results["rows"][1]["name"] = "<script>";
  content.recipe = "name = \"</pre><script>\"";
  content.triggers = {"\"><script>"};
  content.pictures = {"neural-cleanse"};
  content.environment = {{"<script>", "<script>"}, {"plugins", {{{"name", "<script>"}}}}};
  content.metrics = R"({"event":"epoch","stage":"<script>","name":"<script>","epoch":0,)"
                    R"("clean_accuracy":0.5,"attack_success_rate":0.5})";
  const std::string html = html_report(content);
  EXPECT_THAT(html, AllOf(Not(HasSubstr("<script")), HasSubstr("&lt;script&gt;"),
                          HasSubstr("src=\"triggers/%22%3E%3Cscript%3E.png\""),
                          HasSubstr("src=\"pictures/neural-cleanse.png\"")));
}

TEST(Html, DrawsACurveForEachStage) {
  ReportContent content;
  content.results = results();
  content.metrics =
      "{\"event\":\"epoch\",\"stage\":\"attack\",\"name\":\"patch\",\"epoch\":0,\"loss\":null,"
      "\"clean_accuracy\":0.0,\"attack_success_rate\":0.25}\n"
      "{\"event\":\"epoch\",\"stage\":\"attack\",\"name\":\"patch\",\"epoch\":1,"
      "\"clean_accuracy\":1.0,\"attack_success_rate\":null}\n"
      "{\"event\":\"epoch\",\"stage\":\"defense\",\"name\":\"tune\",\"epoch\":1,"
      "\"clean_accuracy\":0.5,\"attack_success_rate\":0.5}\n"
      "{\"event\":\"epoch\",\"stage\":\"def";
  const std::string html = html_report(content);
  EXPECT_THAT(html,
              AllOf(HasSubstr("points=\"44.0,210.0 520.0,12.0\""), HasSubstr("[attack] patch"),
                    HasSubstr("[defense] tune"), HasSubstr("prefers-color-scheme: dark")));
  std::size_t figures = 0;
  for (auto at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1))
    ++figures;
  EXPECT_EQ(figures, 2U);
}

TEST(Html, ShowsPluginsAndEnvironment) {
  ReportContent content;
  content.results = results();
  content.environment = {{"plugins", {{{"kind", "attack"}, {"name", "patch"}, {"sha256", "abc"}}}},
                         {"hardware", {{"cores", 2}}}};
  EXPECT_THAT(html_report(content),
              AllOf(HasSubstr("<td>patch</td><td>-</td><td>-</td><td>abc</td>"),
                    HasSubstr("<th>hardware.cores</th><td>2</td>")));
}

TEST(Summary, GivesMeanSampleDeviationAndCount) {
  const auto run = [](const std::string& group, double accuracy, double success) {
    return FinishedRun{group, {{"rows", {row("no defense", accuracy, success)}}}};
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

}  // namespace
