#include "host/report/verdict.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::Optional;
using ::testing::StartsWith;

constexpr bool kAttacked = true, kDefended = false;

/// A good model of ten classes, and its backdoor.
json healthy() {
  return {{"metrics",
           {{"clean_accuracy", 0.912},
            {"attack_success_rate", 0.98},
            {"clean_target_rate", 0.01},
            {"largest_predicted_class_share", 0.11}}},
          {"counts",
           {{"clean", 10000},
            {"triggered", 9000},
            {"triggered_all", 10000},
            {"largest_predicted_class", 1000},
            {"not_finite", 0}}}};
}

json with_one_class(double predicted, std::int64_t members) {
  json row = healthy();
  row["metrics"]["largest_predicted_class_share"] = predicted;
  row["counts"]["largest_predicted_class"] = members;
  return row;
}

json with_accuracy(double accuracy, std::int64_t images) {
  json row = healthy();
  row["metrics"]["clean_accuracy"] = accuracy;
  row["counts"]["clean"] = images;
  return row;
}

json with_attack(double success, double clean_rate, std::int64_t images) {
  json row = healthy();
  row["metrics"]["attack_success_rate"] = success;
  row["metrics"]["clean_target_rate"] = clean_rate;
  row["counts"]["triggered"] = images;
  return row;
}

TEST(Verdict, HasNothingAgainstAHealthyModel) {
  EXPECT_EQ(verdict(healthy(), 10, kAttacked), std::nullopt);
  EXPECT_EQ(verdict(healthy(), 10, kDefended), std::nullopt);
}

TEST(Verdict, HasNothingToSayWithoutMetrics) {
  const json encoder = {{"metrics", json::object()}, {"counts", json::object()}};
  EXPECT_EQ(verdict(encoder, 10, kAttacked), std::nullopt);
  EXPECT_EQ(verdict(json::object(), 10, kAttacked), std::nullopt);
}

TEST(Verdict, OneClassForAlmostEverythingIsACollapse) {
  EXPECT_THAT(verdict(with_one_class(0.98, 1000), 10, kDefended),
              Optional(std::string("collapsed: predicts one class for 98 % of clean images")));
  EXPECT_NE(verdict(with_one_class(0.9, 1000), 10, kDefended), std::nullopt);
  EXPECT_EQ(verdict(with_one_class(0.8999, 1000), 10, kDefended), std::nullopt);
}

TEST(Verdict, AClassThatDominatesTheTestSetMayDominateThePredictions) {
  EXPECT_EQ(verdict(with_one_class(0.93, 9100), 2, kDefended), std::nullopt);
  EXPECT_EQ(verdict(with_one_class(0.93, 5000), 2, kDefended), std::nullopt);
  EXPECT_NE(verdict(with_one_class(0.93, 4999), 2, kDefended), std::nullopt);
}

TEST(Verdict, CleanAccuracyAtChanceIsACollapse) {
  EXPECT_THAT(verdict(with_accuracy(0.101, 10000), 10, kDefended),
              Optional(std::string("collapsed: clean accuracy 0.101 is at chance for 10 classes")));
  // Three standard errors of 0.1 with 10,000 images are 0.009.
  EXPECT_NE(verdict(with_accuracy(0.1089, 10000), 10, kDefended), std::nullopt);
  EXPECT_EQ(verdict(with_accuracy(0.1091, 10000), 10, kDefended), std::nullopt);
  // With 100 images they are 0.09.
  EXPECT_NE(verdict(with_accuracy(0.18, 100), 10, kDefended), std::nullopt);
  EXPECT_EQ(verdict(with_accuracy(0.2, 100), 10, kDefended), std::nullopt);
  // Two balanced classes: half of the images are right when one class is predicted for all.
  json row = with_one_class(1, 5000);
  row["metrics"]["clean_accuracy"] = 0.5;
  EXPECT_THAT(verdict(row, 2, kDefended),
              Optional(std::string("collapsed: clean accuracy 0.500 is at chance for 2 classes")));
}

TEST(Verdict, CleanAccuracyBelowChanceIsACollapse) {
  EXPECT_THAT(
      verdict(with_accuracy(0.0909, 10000), 10, kDefended),
      Optional(std::string("collapsed: clean accuracy 0.091 is below chance for 10 classes")));
  EXPECT_THAT(verdict(with_accuracy(0.0911, 10000), 10, kDefended),
              Optional(std::string("collapsed: clean accuracy 0.091 is at chance for 10 classes")));
}

TEST(Verdict, ThereIsNoChanceWithOneClass) {
  EXPECT_EQ(verdict(with_accuracy(1, 100), 1, kDefended), std::nullopt);
}

TEST(Verdict, LogitsThatAreNotFiniteAreACollapse) {
  json row = healthy();
  for (auto& value : row["metrics"]) value = nullptr;
  row["counts"]["not_finite"] = 3;
  EXPECT_THAT(verdict(row, 10, kAttacked),
              Optional(std::string("collapsed: the logits of 3 test images are not finite")));
}

TEST(Verdict, WeightsThatAreNotFiniteAreACollapse) {
  json row = healthy();
  row["counts"]["not_finite_weights"] = 12;
  EXPECT_THAT(verdict(row, 10, kDefended),
              Optional(std::string("collapsed: 12 of its weights are not finite")));
  const json encoder = {{"metrics", json::object()}, {"counts", {{"not_finite_weights", 1}}}};
  EXPECT_THAT(verdict(encoder, 10, kDefended),
              Optional(std::string("collapsed: 1 of its weights is not finite")));
}

TEST(Verdict, AnAttackThatDidNotTakeIsNamed) {
  EXPECT_THAT(verdict(with_attack(0.013, 0.011, 9000), 10, kAttacked),
              Optional(std::string("attack did not take: attack success rate 0.013 is not clearly "
                                   "above 0.011, its value without the trigger")));
  EXPECT_NE(verdict(with_attack(0.01, 0.2, 9000), 10, kAttacked), std::nullopt);
}

TEST(Verdict, AnAttackTakesFromFivePointsOn) {
  EXPECT_NE(verdict(with_attack(0.1499, 0.1, 9000), 10, kAttacked), std::nullopt);
  EXPECT_EQ(verdict(with_attack(0.1501, 0.1, 9000), 10, kAttacked), std::nullopt);
}

TEST(Verdict, WithFewImagesAnAttackMustShowMore) {
  // The pooled share is 0.175, three standard errors of the difference are 0.161.
  EXPECT_NE(verdict(with_attack(0.25, 0.1, 100), 10, kAttacked), std::nullopt);
  // 0.2 and 0.170.
  EXPECT_EQ(verdict(with_attack(0.3, 0.1, 100), 10, kAttacked), std::nullopt);
  // All images, of four and of five: three standard errors are 1.06 and 0.95.
  EXPECT_NE(verdict(with_attack(1, 0, 4), 10, kAttacked), std::nullopt);
  EXPECT_EQ(verdict(with_attack(1, 0, 5), 10, kAttacked), std::nullopt);
}

TEST(Verdict, ADefendedModelNeedsNoBackdoor) {
  EXPECT_EQ(verdict(with_attack(0.013, 0.011, 9000), 10, kDefended), std::nullopt);
}

TEST(Verdict, WithoutTargetsTheClassThatMostImagesGoToIsCompared) {
  json row = healthy();
  row["metrics"].erase("clean_target_rate");
  row["metrics"]["attack_success_rate"] = 0.15;
  row["metrics"]["attack_class_clean_share"] = 0.11;
  EXPECT_THAT(verdict(row, 10, kAttacked), Optional(StartsWith("attack did not take: ")));
  row["metrics"]["attack_success_rate"] = 0.6;
  EXPECT_EQ(verdict(row, 10, kAttacked), std::nullopt);
}

TEST(Verdict, ACollapseComesFirst) {
  json row = with_attack(0.013, 0.011, 9000);
  row["metrics"]["clean_accuracy"] = 0.1;
  EXPECT_THAT(verdict(row, 10, kAttacked), Optional(StartsWith("collapsed: ")));
}

TEST(Verdict, IsReadFromTheRow) {
  json row = healthy();
  EXPECT_EQ(warning_of(row), "");
  EXPECT_FALSE(has_collapsed(row));
  row["warning"] = "attack did not take: ...";
  EXPECT_EQ(warning_of(row), "attack did not take: ...");
  EXPECT_FALSE(has_collapsed(row));
  EXPECT_FALSE(is_void(row));
  row["warning"] = "collapsed: ...";
  EXPECT_TRUE(has_collapsed(row));
  EXPECT_FALSE(has_failed(row));
  EXPECT_TRUE(is_void(row));
}

TEST(Verdict, OfNoDefenseSpeaksAgainstTheAttack) {
  EXPECT_EQ(objection_to_attack(json::array()), "");
  EXPECT_EQ(objection_to_attack({healthy(), {{"warning", "collapsed: ..."}}}), "");
  EXPECT_EQ(objection_to_attack({{{"warning", "attack did not take: ..."}}, healthy()}),
            "\"no defense\": attack did not take: ...");
}

}  // namespace
}  // namespace backstop::report
