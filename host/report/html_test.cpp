#include "host/report/html.hpp"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/page.hpp"
#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Html, EscapesEverything) {
  ReportContent content;
  content.results = sample_results();
  content.results["name"] = "</title><script>";
  content.results["rows"][1]["name"] = "<script>";
  content.results["rows"][1]["curves"] = {{{"name", "<script>"}, {"x", {1, 2}}, {"y", {0.5, 1}}}};
  content.results["detectors"] = {
      {{"name", "<script>"}, {"inputs", {{"auroc", 1}, {"roc", {{"x", {0, 1}}, {"y", {0, 1}}}}}}}};
  content.results["audits"] = {{{"name", "<script>"},
                                {"metrics", {{"clean_accuracy", 0.5}}},
                                {"path", {{{"t", 0.0}, {"attack_success_rate", 1.0}}}}}};
  content.recipe = "name = \"</pre><script>\"";
  content.triggers = {{"\"><script>", "<script>"}};
  content.pictures = {{"\"><script>", "<script>"}};
  content.environment = {{"<script>", "<script>"}, {"plugins", {{{"name", "<script>"}}}}};
  for (const auto* name : {"<script>", "<script>2"})
    for (const auto* epoch : {"0", "1"})
      content.metrics += std::string(R"({"event":"epoch","stage":"<script>","name":")") + name +
                         R"(","epoch":)" + epoch + R"(,"clean_accuracy":0.5})" + "\n";
  const std::string html = html_report(content);
  EXPECT_EQ(count(html, "<script"), 1U) << "the page's own";
  EXPECT_EQ(count(html, "</script"), 1U);
  EXPECT_THAT(html, AllOf(HasSubstr("[&lt;script&gt;] clean accuracy"),
                          HasSubstr("alt=\"&quot;&gt;&lt;script&gt;: ")));
}

TEST(Html, DrawsTheCurvesOfAllDefensesInOneFigureForEachMetric) {
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
      "{\"event\":\"epoch\",\"stage\":\"defense\",\"name\":\"distill\",\"epoch\":0,"
      "\"clean_accuracy\":0.5,\"attack_success_rate\":0.5}\n"
      "{\"event\":\"epoch\",\"stage\":\"defense\",\"name\":\"distill\",\"epoch\":1,"
      "\"clean_accuracy\":0.5,\"attack_success_rate\":0.25}\n"
      "{\"event\":\"epoch\",\"stage\":\"defense\",\"name\":\"prune\",\"epoch\":0,"
      "\"clean_accuracy\":0.5,\"attack_success_rate\":0.5}\n"
      "{\"event\":\"epoch\",\"stage\":\"def";
  const std::string html = html_report(content);
  EXPECT_EQ(count(html, "<svg"), 3U) << "the attack's training, and two metrics of the defenses";
  EXPECT_EQ(count(html, "<polyline"), 5U) << "nothing of what was only measured at its start";
  EXPECT_THAT(html, AllOf(HasSubstr("<b>[attack] patch</b>"),
                          HasSubstr("<desc>clean accuracy from 0 to 1</desc>"),
                          HasSubstr("<b>[defense] attack success</b>: triggered test images"),
                          HasSubstr("<desc>tune from 0.5 to 0.5; distill from 0.5 to 0.25</desc>"),
                          HasSubstr("lower is better")));
}

TEST(Html, DrawsTheLearningRatesOfAllDefensesInOneFigure) {
  ReportContent content;
  content.results = sample_results();
  content.metrics =
      R"({"event":"epoch","stage":"defense","name":"plain","epoch":1,"clean_accuracy":0.5,)"
      R"("learning_rate":{"epoch":[0,0.5],"rate":[0.01,0.01]}})"
      "\n"
      R"({"event":"epoch","stage":"defense","name":"super","epoch":1,"clean_accuracy":0.5,)"
      R"("learning_rate":{"epoch":[0,0.5],"rate":[0.001,0.1]}})"
      "\n"
      R"({"event":"epoch","stage":"defense","name":"super","epoch":2,"clean_accuracy":0.5,)"
      R"("learning_rate":{"epoch":[1,1.5],"rate":[0.001,null]}})"
      "\n";
  const std::string html = html_report(content);
  EXPECT_THAT(html,
              AllOf(HasSubstr("<b>[defense] learning rate</b>"),
                    HasSubstr("<desc>plain from 0.01 to 0.01; super from 0.001 to 0.001</desc>"),
                    HasSubstr("<title>super: learning rate 0.1 at epoch 0.5</title>")));
}

TEST(Html, DrawsWhatPluginsRecorded) {
  ReportContent content;
  content.results = sample_results();
  content.results["rows"][1]["curves"] = {
      {{"name", "held-out accuracy by peak"}, {"x", {0.01, 0.1, 1.0}}, {"y", {0.5, 0.75, 0.25}}},
      {{"name", "one point"}, {"x", {1}}, {"y", {1}}}};
  const std::string html = html_report(content);
  EXPECT_EQ(count(html, "<svg"), 1U);
  EXPECT_THAT(html, AllOf(HasSubstr("<b>fine-tuning: held-out accuracy by peak</b>"),
                          HasSubstr(">0.1</text>"), HasSubstr(">peak</text>"),
                          HasSubstr("<title>held-out accuracy 0.75 at peak 0.1</title>")));
}

TEST(Html, ShowsPluginsAndEnvironment) {
  ReportContent content;
  content.results = sample_results();
  EXPECT_THAT(html_report(content), Not(HasSubstr("<h2>Plugins</h2>")));
  content.environment = {{"plugins", {{{"kind", "attack"}, {"name", "patch"}, {"sha256", "abc"}}}},
                         {"hardware", {{"cores", 2}}}};
  EXPECT_THAT(
      html_report(content),
      AllOf(
          HasSubstr("<th scope=\"row\">patch</th><td>attack</td><td>-</td><td>-</td><td>abc</td>"),
          HasSubstr("<th scope=\"row\">hardware.cores</th><td>2</td>")));
}

TEST(Html, ShowsPicturesInTheirOwnSize) {
  ReportContent content;
  content.results = sample_results();
  const std::string png("\x89PNG\r\n\x1A\n\0\0\0\rIHDR\0\0\4\x0C\0\0\1\x6A", 24);
  content.triggers = {{"badnets", png}, {"broken", "x"}};
  EXPECT_THAT(html_report(content),
              AllOf(HasSubstr("<img src=\"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAABAwAAAFq\" "
                              "width=\"1036\" height=\"362\" alt=\"badnets: test images"),
                    HasSubstr("<img src=\"data:image/png;base64,eA==\" alt=\"broken: ")));
}

TEST(Html, SaysWhatColumnsMeanWhereTheyAreRead) {
  ReportContent content;
  content.results = sample_results();
  EXPECT_THAT(html_report(content),
              AllOf(HasSubstr("<th scope=\"col\"><abbr title=\"clean test images classified "
                              "correctly; higher is better\">clean accuracy</abbr></th>"),
                    HasSubstr("<li>clean accuracy: clean test images classified correctly (n = "
                              "10,000)</li>"),
                    HasSubstr("<td data-order=\"312.4\">5 min 12 s</td>")));
}

TEST(Html, ShowsInvisibleCharacters) {
  EXPECT_EQ(html_escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
  EXPECT_EQ(html_escape("a\u202Eb\u200B<\n\xFF"), "a[U+202E]b[U+200B]&lt;\n\uFFFD");
}

TEST(Html, ShowsWarnings) {
  ReportContent content;
  content.results = collapsed_results();
  EXPECT_THAT(html_report(content),
              AllOf(HasSubstr("<tr class=\"warning\"><th scope=\"row\">pruned, then "
                              "&quot;tuned&quot; (!)</th>"),
                    HasSubstr("<p class=\"warning\">warning: pruned, then &quot;tuned&quot;: "
                              "collapsed: predicts one class for 98 % of clean images</p>"),
                    HasSubstr("<td class=\"best\" data-order=\"0.25\">0.250</td>"),
                    HasSubstr("<td data-order=\"0.012\">0.012</td>")));
}

TEST(Html, DrawsTheCurvesOfDetectorsOfInputs) {
  ReportContent content;
  content.results = sample_results();
  EXPECT_THAT(html_report(content), Not(HasSubstr("ROC")));
  content.results["detectors"] = {
      {{"name", "a<b"},
       {"inputs", {{"auroc", 0.75}, {"roc", {{"x", {0.0, 0.5, 1.0}}, {"y", {0.0, 1.0, 1.0}}}}}}}};
  const std::string html = html_report(content);
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">a&lt;b</th><td>0.750</td>"));
  EXPECT_THAT(html, HasSubstr("<title>a&lt;b: triggered images found 1 at clean test images called "
                              "triggered 0.5</title>"));
  EXPECT_THAT(html, HasSubstr("<b>ROC curves</b>"));
}

TEST(Page, LinksItsSectionsAndLeavesOutEmptyOnes) {
  const std::string html = html_page("a<b", "", {{"First", "<p>1</p>"}, {"None", ""}, {"<", "2"}});
  EXPECT_THAT(html, AllOf(HasSubstr("<title>a&lt;b - backstop</title>"),
                          HasSubstr("<a href=\"#s0\">First</a>"), Not(HasSubstr("None")),
                          HasSubstr("<section id=\"s2\" aria-label=\"&lt;\">\n<h2>&lt;</h2>"),
                          HasSubstr("<html lang=\"en\">"), HasSubstr("<main>")));
  EXPECT_EQ(html_table({.caption = "nothing"}), "");
  EXPECT_EQ(html_notes({}), "");
  EXPECT_EQ(html_figures({}), "");
}

}  // namespace
}  // namespace backstop::report
