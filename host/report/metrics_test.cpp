#include "host/report/metrics.hpp"

#include <limits>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

std::vector<std::string_view> keys(const std::vector<const Metric*>& metrics) {
  std::vector<std::string_view> list;
  for (const Metric* metric : metrics) list.push_back(metric->key);
  return list;
}

TEST(Metrics, SayWhereTheyAreShown) {
  EXPECT_THAT(keys(metrics_with(&Metric::by_epoch)),
              ElementsAre("clean_accuracy", "attack_success_rate"));
  EXPECT_THAT(keys(metrics_with(&Metric::in_summary)),
              ElementsAre("clean_accuracy", "attack_success_rate", "true_positive_rate",
                          "false_positive_rate", "auroc"));
  EXPECT_THAT(keys(metrics_with(&Metric::in_table)),
              ElementsAre("clean_accuracy", "attack_success_rate", "attack_success_rate_all",
                          "robust_accuracy", "wall_seconds", "cpu_seconds", "gpu_seconds",
                          "samples_seen", "peak_memory_bytes"));
}

TEST(Metrics, EachEntryIsWhole) {
  std::set<std::string> names, columns;
  for (const Metric& metric : metrics()) {
    const std::string name = std::string(metric.section) + "." + std::string(metric.key);
    EXPECT_TRUE(names.insert(name).second) << name << " stands twice";
    EXPECT_TRUE(metric.csv.empty() || columns.insert(std::string(metric.csv)).second) << name;
    const bool shown = metric.in_table || metric.by_epoch || metric.in_summary;
    EXPECT_TRUE(!shown || !metric.title.empty()) << name;
    EXPECT_TRUE(!metric.in_table || metric.better != Better::neither) << name;
    EXPECT_TRUE(!metric.by_epoch || metric.range == Range::share) << name << ": curves span 0 to 1";
    EXPECT_TRUE(!metric.in_expect || metric.section == "metrics" || metric.section == "detection")
        << name;
    EXPECT_EQ(metric.definition.empty(), metric.images.empty()) << name;
    EXPECT_EQ(metric.not_in.empty(), metric.why_not.empty()) << name;
  }
}

TEST(Metrics, CanBeExpectedInTheScenariosThatHaveThem) {
  EXPECT_THAT(keys(expectable_metrics("standalone")),
              ElementsAre("clean_accuracy", "attack_success_rate", "attack_success_rate_all",
                          "robust_accuracy", "clean_accuracy_drop", "true_positive_rate",
                          "false_positive_rate", "auroc", "tpr_at_1_fpr", "tpr_at_5_fpr"));
  EXPECT_THAT(keys(expectable_metrics("transfer")),
              ElementsAre("clean_accuracy", "attack_success_rate", "attack_success_rate_all",
                          "robust_accuracy", "attack_class_clean_share"));
  EXPECT_THAT(keys(expectable_metrics("encoder")),
              ElementsAre("clean_accuracy", "attack_success_rate", "attack_success_rate_all",
                          "robust_accuracy"));
}

TEST(Metrics, AreFoundByTheirKey) {
  ASSERT_NE(find_metric("clean_accuracy_drop"), nullptr);
  EXPECT_EQ(find_metric("clean_accuracy_drop")->range, Range::difference);
  EXPECT_EQ(find_metric("wall_seconds"), nullptr) << "a cost";
}

TEST(Metrics, AreWrittenInTheirUnit) {
  const json row = sample_row("tuned", 0.9054, 0.25);
  const auto text = [&](std::string_view key) {
    for (const Metric& metric : metrics())
      if (metric.key == key) return text_of(metric, value_of(row, metric));
    return std::string("no such metric");
  };
  EXPECT_EQ(text("clean_accuracy"), "0.905");
  EXPECT_EQ(text("robust_accuracy"), "-");
  EXPECT_EQ(text("samples_seen"), "120,000");
  EXPECT_EQ(text("wall_seconds"), "5 min 12 s");
  EXPECT_EQ(text("peak_memory_bytes"), "1 MB");
}

TEST(Metrics, ByEpochKeepsWhatIsShownOfEachEvent) {
  const json events = {
      {{"event", "epoch"}, {"epoch", 0}, {"clean_accuracy", 0.1}, {"robust_accuracy", 0.3}},
      {{"event", "epoch"}, {"epoch", 1}, {"loss", 2.0}},
      {{"event", "epoch"},
       {"epoch", 2},
       {"clean_accuracy", nullptr},
       {"attack_success_rate", 1.0}}};
  EXPECT_EQ(points_by_epoch(events),
            json({{{"epoch", 0}, {"clean_accuracy", 0.1}},
                  {{"epoch", 2}, {"clean_accuracy", nullptr}, {"attack_success_rate", 1.0}}}));
  EXPECT_EQ(points_by_epoch(json::array()), json::array());
}

TEST(Metrics, TheDropIsWhatTheDefenseCosts) {
  const json before = sample_row("no defense", 0.75, 1.0);
  EXPECT_EQ(clean_accuracy_drop(before, sample_row("tuned", 0.5, 0.0)), 0.25);
  json broken = sample_row("tuned", 0.5, 0.0);
  broken["metrics"]["clean_accuracy"] = nullptr;
  EXPECT_TRUE(clean_accuracy_drop(before, broken).is_null());
  EXPECT_TRUE(clean_accuracy_drop(json::object(), before).is_null());
  broken = before;
  broken["warning"] = "collapsed: ...";
  EXPECT_EQ(clean_accuracy_drop(before, broken), 0.0);
  EXPECT_TRUE(clean_accuracy_drop(broken, before).is_null());
}

TEST(Metrics, ThatAreNotFiniteAreNotThere) {
  json row = sample_row("tuned", std::numeric_limits<double>::quiet_NaN(),
                        std::numeric_limits<double>::infinity());
  for (const Metric* metric : metrics_with(&Metric::by_epoch))
    EXPECT_EQ(text_of(*metric, value_of(row, *metric)), "-");
}

}  // namespace
}  // namespace backstop::report
