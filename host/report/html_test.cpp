#include "host/report/html.hpp"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Html, EscapesEverything) {
  EXPECT_EQ(html_escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
  ReportContent content;
  content.results = sample_results();
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
  content.results = sample_results();
  content.metrics =
      "{\"event\":\"epoch\",\"stage\":\"attack\",\"name\":\"patch\",\"epoch\":0,\"loss\":null,"
      "\"clean_accuracy\":0.0,\"attack_success_rate\":0.25}\n"
      "{\"event\":\"epoch\",\"stage\":\"attack\",\"name\":\"patch\",\"epoch\":1,"
      "\"clean_accuracy\":1.0,\"attack_success_rate\":null}\n"
      "{\"event\":\"epoch\",\"stage\":\"defense\",\"name\":\"tune\",\"epoch\":0,"
      "\"clean_accuracy\":0.5,\"attack_success_rate\":0.5}\n"
      "{\"event\":\"epoch\",\"stage\":\"defense\",\"name\":\"tune\",\"epoch\":1,"
      "\"clean_accuracy\":0.5,\"attack_success_rate\":0.5}\n"
      "{\"event\":\"epoch\",\"stage\":\"defense\",\"name\":\"prune\",\"epoch\":0,"
      "\"clean_accuracy\":0.5,\"attack_success_rate\":0.5}\n"
      "{\"event\":\"epoch\",\"stage\":\"def";
  const std::string html = html_report(content);
  EXPECT_THAT(html,
              AllOf(HasSubstr("points=\"44.0,210.0 520.0,12.0\""), HasSubstr("[attack] patch"),
                    HasSubstr("[defense] tune"), HasSubstr("prefers-color-scheme: dark")));
  std::size_t figures = 0;
  for (auto at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1))
    ++figures;
  EXPECT_EQ(figures, 2U) << "nothing of a stage that was only measured at its start";
}

TEST(Html, ShowsPluginsAndEnvironment) {
  ReportContent content;
  content.results = sample_results();
  content.environment = {{"plugins", {{{"kind", "attack"}, {"name", "patch"}, {"sha256", "abc"}}}},
                         {"hardware", {{"cores", 2}}}};
  EXPECT_THAT(html_report(content),
              AllOf(HasSubstr("<td>patch</td><td>-</td><td>-</td><td>abc</td>"),
                    HasSubstr("<th>hardware.cores</th><td>2</td>")));
}

TEST(Html, ShowsInvisibleCharacters) {
  EXPECT_EQ(html_escape("a\u202Eb\u200B<\n\xFF"), "a[U+202E]b[U+200B]&lt;\n\uFFFD");
}

TEST(Html, ShowsWarnings) {
  ReportContent content;
  content.results = collapsed_results();
  EXPECT_THAT(html_report(content),
              AllOf(HasSubstr("<tr class=\"warning\"><td>pruned, then &quot;tuned&quot; (!)</td>"),
                    HasSubstr("<p class=\"warning\">warning: pruned, then &quot;tuned&quot;: "
                              "collapsed: predicts one class for 98 % of clean images</p>"),
                    HasSubstr("<td class=\"best\">0.250</td>"),
                    Not(HasSubstr("<td class=\"best\">0.012</td>"))));
}

TEST(Html, DrawsTheCurvesOfDetectorsOfInputs) {
  ReportContent content;
  content.results = sample_results();
  EXPECT_THAT(html_report(content), Not(HasSubstr("ROC")));
  content.results["detectors"] = {
      {{"name", "a<b"},
       {"inputs", {{"auroc", 0.75}, {"roc", {{"x", {0.0, 0.5, 1.0}}, {"y", {0.0, 1.0, 1.0}}}}}}}};
  const std::string html = html_report(content);
  EXPECT_THAT(html, HasSubstr("<td>a&lt;b</td><td>0.750</td>"));
  EXPECT_THAT(html, HasSubstr("<polyline points=\"44.0,210.0 282.0,12.0 520.0,12.0\"/>"));
  EXPECT_THAT(html, HasSubstr("(ROC curves)"));
}

}  // namespace
}  // namespace backstop::report
