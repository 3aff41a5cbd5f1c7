#include "host/report/expectations.hpp"

#include <gtest/gtest.h>

#include "host/report/metrics.hpp"
#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;

json check(const json& results, const Expectation& bounds) {
  return check_expectations(results.at("rows"), {bounds}).at(0);
}

TEST(Expectations, HoldValueBoundsAndAnswer) {
  EXPECT_EQ(check(sample_results(), {"fine-tuning", "attack_success_rate", {}, 0.1}),
            sample_results()["expectations"][0]);
  EXPECT_EQ(check(sample_results(), {"no defense", "clean_accuracy", 0.5, 1.0}),
            sample_results()["expectations"][1]);
}

TEST(Expectations, AreMetAtTheirBounds) {
  const auto met = [](std::optional<double> minimum, std::optional<double> maximum) {
    return check(sample_results(), {"fine-tuning", "attack_success_rate", minimum, maximum})["met"];
  };
  EXPECT_TRUE(met(0.25, 0.25));
  EXPECT_FALSE(met(0.2500001, {}));
  EXPECT_FALSE(met({}, 0.2499999));
}

TEST(Expectations, KeepTheOrderOfTheRecipe) {
  const auto entries = check_expectations(
      sample_results()["rows"],
      {{"no defense", "robust_accuracy", {}, 1.0}, {"fine-tuning", "clean_accuracy", 0.9, {}}});
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0]["row"], "no defense");
  EXPECT_TRUE(entries[1]["met"]);
  EXPECT_EQ(check_expectations(sample_results()["rows"], {}), json::array());
}

TEST(Expectations, OfAMetricThatIsMissingOrNullAreNotMet) {
  json results = sample_results();
  results["rows"][1]["metrics"].erase("clean_accuracy_drop");
  for (const char* metric : {"clean_accuracy_drop", "robust_accuracy"}) {
    const auto entry = check(results, {"fine-tuning", metric, {}, 1.0});
    EXPECT_FALSE(entry["met"]) << metric;
    EXPECT_TRUE(entry["value"].is_null()) << metric;
    EXPECT_EQ(entry["reason"], "`" + std::string(metric) + "` was not measured for this row");
  }
  results["rows"][1].erase("metrics");
  EXPECT_FALSE(check(results, {"fine-tuning", "clean_accuracy", {}, 1.0})["met"]);
}

TEST(Expectations, OfARowThatIsMissingAreNotMet) {
  const auto entry = check(sample_results(), {"pruning", "clean_accuracy", {}, 1.0});
  EXPECT_FALSE(entry["met"]);
  EXPECT_EQ(entry["reason"], "there is no such row");
}

TEST(Expectations, OfTheBackdoorOfACollapsedModelAreNotMet) {
  const std::string row = "pruned, then \"tuned\"";
  json results = collapsed_results();
  results["rows"][2]["metrics"]["robust_accuracy"] = 0.9;
  for (const Expectation& bounds : {Expectation{row, "attack_success_rate", {}, 0.1},
                                    Expectation{row, "attack_success_rate_all", {}, 0.1},
                                    Expectation{row, "robust_accuracy", 0.5, {}}}) {
    const auto entry = check(results, bounds);
    EXPECT_FALSE(entry["met"]) << bounds.metric;
    EXPECT_TRUE(entry["value"].is_number()) << bounds.metric;
    EXPECT_EQ(entry["reason"], results["rows"][2]["warning"]) << bounds.metric;
  }
  EXPECT_TRUE(check(results, {row, "clean_accuracy", 0.5, {}})["met"]) << "it is what it is";
}

TEST(Expectations, OfAModelWithoutFiniteLogitsGiveTheReason) {
  json results = collapsed_results();
  results["rows"][2]["metrics"]["clean_accuracy"] = nullptr;
  EXPECT_EQ(check(results, {"pruned, then \"tuned\"", "clean_accuracy", {}, 1.0})["reason"],
            results["rows"][2]["warning"]);
}

TEST(Expectations, OfAnAttackThatDidNotTakeAreJudgedByTheirBounds) {
  json results = sample_results();
  results["rows"][0]["warning"] = "attack did not take: ...";
  EXPECT_TRUE(check(results, {"no defense", "attack_success_rate", 0.9, {}})["met"]);
}

TEST(Expectations, OfADefenseAgainstAnAttackThatDidNotTakeAreNotMet) {
  json results = sample_results();
  results["rows"][1]["metrics"]["robust_accuracy"] = 0.9;
  for (const char* warning : {"attack did not take: ...", "collapsed: ..."}) {
    results["rows"][0]["warning"] = warning;
    for (const Expectation& bounds :
         {Expectation{"fine-tuning", "attack_success_rate", {}, 0.5},
          Expectation{"fine-tuning", "attack_success_rate_all", {}, 0.5},
          Expectation{"fine-tuning", "robust_accuracy", 0.5, {}}}) {
      const auto entry = check(results, bounds);
      EXPECT_FALSE(entry["met"]) << bounds.metric;
      EXPECT_EQ(entry["reason"], "\"no defense\": " + std::string(warning)) << bounds.metric;
    }
    EXPECT_TRUE(check(results, {"fine-tuning", "clean_accuracy", 0.9, {}})["met"]);
  }
}

TEST(Expectations, OfADropFromACollapsedModelAreNotMet) {
  json results = sample_results();
  results["rows"][0]["warning"] = "collapsed: ...";
  for (json& row : results["rows"])
    row["metrics"]["clean_accuracy_drop"] = clean_accuracy_drop(results["rows"][0], row);
  for (const char* row : {"no defense", "fine-tuning"}) {
    const auto entry = check(results, {row, "clean_accuracy_drop", {}, 1.0});
    EXPECT_FALSE(entry["met"]) << row;
    EXPECT_NE(entry["reason"].get<std::string>().find("collapsed: ..."), std::string::npos) << row;
  }
}

TEST(Expectations, OfAShareOfNoImagesAreNotMet) {
  json results = sample_results();
  results["rows"][1]["metrics"]["attack_success_rate"] = nullptr;
  results["rows"][1]["counts"]["triggered"] = 0;
  const auto entry = check(results, {"fine-tuning", "attack_success_rate", {}, 0.1});
  EXPECT_FALSE(entry["met"]);
  EXPECT_EQ(entry["reason"], "no test image counts for `attack_success_rate` (n = 0)");
}

TEST(Expectations, OfWhatAPluginRecordedAndFlagged) {
  const json results = sample_results();
  const std::string row = "pruned, then \"tuned\"";
  EXPECT_TRUE(check(results, {row, "extra.pruned", 12, 12})["met"]);
  EXPECT_FALSE(check(results, {row, "extra.pruned", 13, {}})["met"]);
  const auto missing = check(results, {row, "extra.prunde", 0, {}});
  EXPECT_FALSE(missing["met"]);
  EXPECT_EQ(missing["reason"], "its plugin recorded no `prunde`, but pruned");
  EXPECT_TRUE(check(results, {row, "true_positive_rate", 0.98, {}})["met"]);
  EXPECT_FALSE(check(results, {row, "false_positive_rate", {}, 0.005})["met"]);
  EXPECT_FALSE(check(results, {"fine-tuning", "true_positive_rate", 0.0, {}})["met"]);
}

TEST(Expectations, OfADetectorOfInputs) {
  const json detectors = {{{"name", "strip"},
                           {"inputs", {{"auroc", 0.9}, {"tpr_at_1_fpr", nullptr}}},
                           {"extra", {{"overlays", 100}}}}};
  const auto checked = [&](const Expectation& expectation) {
    return check_expectations(json::array(), {expectation}, detectors).at(0);
  };
  EXPECT_TRUE(checked({"strip", "auroc", 0.9, {}})["met"]);
  EXPECT_FALSE(checked({"strip", "auroc", 0.91, {}})["met"]);
  EXPECT_FALSE(checked({"strip", "tpr_at_1_fpr", 0.0, {}})["met"]);
  EXPECT_EQ(checked({"strip", "tpr_at_1_fpr", 0.0, {}})["reason"],
            "`tpr_at_1_fpr` was not measured for this row");
  EXPECT_TRUE(checked({"strip", "extra.overlays", 100, 100})["met"]);
}

}  // namespace
}  // namespace backstop::report
