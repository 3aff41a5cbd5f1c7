#include "host/report/roc.hpp"

#include <cstddef>
#include <utility>

#include <gtest/gtest.h>

using namespace backstop::report;

namespace {

/// By its definition, pair by pair.
double chance_of_higher(const std::vector<double>& negatives,
                        const std::vector<double>& positives) {
  double wins = 0;
  for (const double n : negatives)
    for (const double p : positives) wins += p > n ? 1.0 : p == n ? 0.5 : 0.0;
  return wins / static_cast<double>(negatives.size() * positives.size());
}

}  // namespace

TEST(Roc, PerfectReversedAndUselessScores) {
  EXPECT_DOUBLE_EQ(*auroc_of(roc_curve({0, 1}, {2, 3, 4})), 1);
  EXPECT_DOUBLE_EQ(*auroc_of(roc_curve({2, 3, 4}, {0, 1})), 0);
  EXPECT_DOUBLE_EQ(*auroc_of(roc_curve({1, 1, 1}, {1, 1})), 0.5);
}

TEST(Roc, TiesCountHalf) {
  const std::vector<double> negatives = {0, 0.2, 0.2, 0.4, 0.4, 0.4, 1};
  const std::vector<double> positives = {0.2, 0.4, 0.4, 0.6, 1, 1};
  EXPECT_NEAR(*auroc_of(roc_curve(negatives, positives)), chance_of_higher(negatives, positives),
              1e-12);
}

TEST(Roc, RunsFromOneCornerToTheOther) {
  const auto curve = roc_curve({0, 1, 1}, {1, 2});
  ASSERT_EQ(curve.size(), 4U);
  EXPECT_EQ(curve.front().false_positive_rate, 0);
  EXPECT_EQ(curve.front().true_positive_rate, 0);
  EXPECT_EQ(curve[1].true_positive_rate, 0.5);  // threshold 2
  EXPECT_EQ(curve[1].false_positive_rate, 0);
  EXPECT_EQ(curve.back().false_positive_rate, 1);
  EXPECT_EQ(curve.back().true_positive_rate, 1);
}

TEST(Roc, RateAtALimitIsThatOfAThresholdAndNotBetweenTwo) {
  std::vector<double> negatives;
  for (int i = 0; i < 100; ++i) negatives.push_back(i);
  // Above all, above all but one, above all but six.
  const auto curve = roc_curve(negatives, {200, 98.5, 93.5});
  EXPECT_DOUBLE_EQ(*true_positive_rate_at(curve, 0.0), 1.0 / 3);
  EXPECT_DOUBLE_EQ(*true_positive_rate_at(curve, 0.01), 2.0 / 3);
  EXPECT_DOUBLE_EQ(*true_positive_rate_at(curve, 0.05), 2.0 / 3);
  EXPECT_DOUBLE_EQ(*true_positive_rate_at(curve, 0.06), 1);
}

TEST(Roc, SaysNothingWithoutPositivesOrNegatives) {
  for (const auto& curve : {roc_curve({}, {1}), roc_curve({1}, {})}) {
    EXPECT_FALSE(auroc_of(curve));
    EXPECT_TRUE(separation(curve)["auroc"].is_null());
    EXPECT_TRUE(separation(curve)["tpr_at_1_fpr"].is_null());
  }
}
