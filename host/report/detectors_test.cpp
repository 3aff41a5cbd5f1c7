#include "host/report/detectors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/expectations.hpp"
#include "host/report/model_text.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json detector(double score, json suspects) {
  json verdict = {{"score", score},
                  {"threshold", 2.0},
                  {"suspicious", score >= 2},
                  {"suspects", std::move(suspects)},
                  {"classes", {{"index", {0.5, score}}}},
                  {"class_names", {"cat", "dog"}}};
  json calibration = calibrated(verdict, {1, 1.5, 2, 3}, {1.9, 4, 5}, "docs/scan.md");
  return {{"name", "nc"}, {"verdict", verdict}, {"calibration", calibration}};
}

const json kDog = {{{"label", 1}, {"class", "dog"}, {"evidence", "is reached by a patch"}}};

TEST(Detectors, CountsTheModelsWhoseTruthIsKnown) {
  const json calibration = detector(2.5, kDog)["calibration"];
  EXPECT_EQ(calibration["clean_models"], 4);
  EXPECT_EQ(calibration["clean_flagged"], 2);
  EXPECT_EQ(calibration["clean_as_high"], 1);
  EXPECT_EQ(calibration["backdoored_flagged"], 2);
}

TEST(Detectors, SaysItsVerdictInASentence) {
  EXPECT_THAT(
      verdict_sentences(detector(2.5, kDog)),
      ElementsAre("nc: suspicious: class 1 (dog) is reached by a patch; 1 of 4 clean models "
                  "scores as high"));
  EXPECT_THAT(verdict_sentences(detector(1, json::array())),
              ElementsAre("nc: nothing found (score 1.00, threshold 2.00; it flags 2 of 3 "
                          "backdoored models and 2 of 4 clean ones (docs/scan.md))"));
  EXPECT_THAT(verdict_sentences({{"name", "nc"},
                                 {"verdict", {{"suspicious", nullptr}, {"reason", "too short"}}}}),
              ElementsAre("nc: no verdict: too short"));
  EXPECT_THAT(
      verdict_sentences(
          {{"name", "nc"},
           {"verdict", {{"suspicious", nullptr}, {"reason", "too short"}, {"suspects", kDog}}}}),
      ElementsAre("nc: no verdict: too short; so far, class 1 (dog) is reached by a patch"));
  EXPECT_THAT(verdict_sentences({{"name", "nc"}, {"error", "it broke"}}),
              ElementsAre("nc: failed: it broke"));
}

TEST(Detectors, NoVerdictIsNoAllClear) {
  const json none = {{"name", "nc"}, {"verdict", {{"suspicious", nullptr}, {"reason", "short"}}}};
  EXPECT_TRUE(suspicious_or_unknown({{"detectors", {none}}}));
  EXPECT_TRUE(suspicious_or_unknown({{"detectors", json::array()}}));
  EXPECT_FALSE(suspicious_or_unknown({{"detectors", {none, detector(1, json::array())}}}));
  EXPECT_TRUE(
      suspicious_or_unknown({{"detectors", {detector(1, json::array()), detector(3, kDog)}}}));
}

TEST(Detectors, ExpectationsNameClasses) {
  const json found = json::array({detector(2.5, kDog)});
  Expectation dog{"nc", "suspects"};
  dog.classes = {"dog"};
  EXPECT_TRUE(check_expectations(json::array(), {dog}, found).at(0)["met"]);
  dog.classes = {"cat"};
  EXPECT_FALSE(check_expectations(json::array(), {dog}, found).at(0)["met"]);
  EXPECT_FALSE(check_expectations(json::array(), {{"nc", "score", {}, 2.0}}, found).at(0)["met"]);
  EXPECT_TRUE(check_expectations(json::array(), {{"nc", "score", 2.0, {}}}, found).at(0)["met"]);
}

TEST(Change, HasTheIntervalOfAPairedDifference) {
  const json change = change_of(100, 6, 2);
  EXPECT_DOUBLE_EQ(change["difference"], -0.04);
  // sqrt(8 - 16 / 100) / 100 = 0.028
  EXPECT_NEAR(change["interval"][0], -0.04 - 1.96 * 0.028, 1e-9);
  EXPECT_NEAR(change["interval"][1], -0.04 + 1.96 * 0.028, 1e-9);
}

TEST(Change, TooMuchIsMoreThanTheTolerance) {
  const auto results = [](std::int64_t lost) {
    return json{{"rows", {{{"name", "cleaned"}, {"change", change_of(100, lost, 0)}}}}};
  };
  EXPECT_FALSE(lost_too_much(results(2), 0.02));
  EXPECT_TRUE(lost_too_much(results(3), 0.02));
  json collapsed = results(0);
  collapsed["rows"][0]["warning"] = "collapsed: predicts one class";
  EXPECT_TRUE(lost_too_much(collapsed, 0.02));
}

TEST(ModelText, ShowsAccuracyByClass) {
  const json results = {
      {"rows",
       {{{"name", "no defense"}, {"by_class", {{{"class", "cat"}, {"images", 4}, {"correct", 3}}}}},
        {{"name", "cleaned"}, {"by_class", {{{"class", "cat"}, {"images", 4}, {"correct", 2}}}}}}}};
  EXPECT_THAT(accuracy_by_class(results),
              ElementsAre(ElementsAre("class", "images", "no defense", "cleaned"),
                          ElementsAre("cat", "4", "0.750", "0.500")));
}

TEST(ModelText, SaysWhatFitsTheImages) {
  const json results = {{"precision", "float32"},
                        {"normalization",
                         {{"by", "accuracy"},
                          {"name", "imagenet"},
                          {"mean", {0.5}},
                          {"deviation", {0.25}},
                          {"images", 400},
                          {"accuracies", {{"imagenet", 0.9}, {"none", 0.4}, {"half", 0.8}}}}},
                        {"rows",
                         {{{"name", "no defense"},
                           {"metrics", {{"clean_accuracy", 0.9}}},
                           {"counts", {{"clean", 100}}}}}}};
  const std::string text = scan_text(results, false);
  EXPECT_THAT(text, HasSubstr("imagenet (mean 0.5, deviation 0.25), chosen by accuracy on 400 "
                              "images: 0.900; half 0.800, none 0.400"));
  EXPECT_THAT(text, HasSubstr("0.900 (90 of 100 images; 95 %: 0.826 to 0.945)"));
}

}  // namespace
}  // namespace backstop::report
