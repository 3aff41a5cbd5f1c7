#include <cmath>

#include <gtest/gtest.h>

#include "outliers.hpp"
#include "penalty.hpp"
#include "search.hpp"

namespace backstop::trigger_search {
namespace {

TEST(Outliers, MedianAndDeviationMatchThoseComputedByHand) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
  const Spread spread = spread_of({9, 14, 11, 15, 1}, 4);
  EXPECT_EQ(spread.median, 11);
  EXPECT_DOUBLE_EQ(spread.deviation, 3 * 1.4826);  // distances 2, 3, 0, 4, 10
  EXPECT_DOUBLE_EQ(spread.index(1), 10 / (3 * 1.4826));
  EXPECT_DOUBLE_EQ(spread.index(15), -4 / (3 * 1.4826));
}

TEST(Outliers, TiesDoNotMakeOutliersOfRoundingErrors) {
  const Spread tied = spread_of({10, 10, 10, 10, 9.9999}, 2.5);
  EXPECT_DOUBLE_EQ(tied.deviation, 2.5);
  EXPECT_LT(tied.index(9.9999), 0.001);
  EXPECT_DOUBLE_EQ(tied.index(5), 2);
  EXPECT_EQ(spread_of({0, 0, 0}, 0).index(0), 0);
}

TEST(Outliers, TwoClassesHaveNoOutlier) {
  EXPECT_NEAR(spread_of({1, 900}, 0).index(1), 1 / 1.4826, 1e-9);
  EXPECT_EQ(spread_of({7}, 0).index(7), 0);
}

TEST(Penalty, FollowsTheAuthorsSchedule) {
  Penalty penalty({.initial = 0.001, .multiplier = 4, .patience = 2, .early_stop = 3});
  const auto after = [&](bool success, bool smaller) {
    penalty.after_round(success, smaller);
    return penalty.weight();
  };
  EXPECT_EQ(penalty.weight(), 0);
  EXPECT_EQ(after(false, false), 0);
  EXPECT_EQ(after(false, false), 0);  // two failures, but no cost to lower
  EXPECT_EQ(after(true, true), 0);
  EXPECT_EQ(after(false, false), 0);  // the successes must be consecutive
  EXPECT_EQ(after(true, true), 0);
  EXPECT_EQ(after(true, true), 0.001);   // the second success sets it, and counts as the first
  EXPECT_EQ(after(true, false), 0.004);  // patience 2
  EXPECT_EQ(after(true, false), 0.004);
  EXPECT_EQ(after(true, false), 0.016);
  EXPECT_FALSE(penalty.stopped());  // three epochs without a smaller mask, but never lowered
  EXPECT_EQ(after(false, false), 0.016);
  EXPECT_EQ(after(false, false), 0.002);  // by 4^1.5 = 8
  EXPECT_FALSE(penalty.stopped());
  EXPECT_EQ(after(true, true), 0.002);  // a smaller mask, so the search continues
  EXPECT_FALSE(penalty.stopped());
  after(false, false);
  after(true, false);
  EXPECT_FALSE(penalty.stopped());
  after(false, false);
  EXPECT_TRUE(penalty.stopped());
}

TEST(Unfinished, SaysWhatIsMissing) {
  Settings settings;
  settings.rounds = 30;
  Triggers triggers{
      .raw = {}, .sizes = {}, .found = {true, true, true}, .converged = {true, true, true}};
  EXPECT_EQ(unfinished(triggers, settings, "masks"), "");
  triggers.converged[1] = false;
  EXPECT_EQ(unfinished(triggers, settings, "masks"),
            "the masks of 1 of 3 classes were still shrinking after 30 rounds of search");
  triggers.found[0] = triggers.converged[0] = false;
  EXPECT_EQ(unfinished(triggers, settings, "masks"),
            "the masks of 1 of 3 classes were still shrinking, and no image change that works was "
            "found for 1 of 3 classes after 30 rounds of search");
  triggers.converged[1] = true;
  EXPECT_EQ(unfinished(triggers, settings, "masks"),
            "no image change that works was found for 1 of 3 classes after 30 rounds of search");
}

TEST(Judge, ComparesLogarithms) {
  Triggers triggers;
  triggers.sizes = {1, 100, 100, 50, 200};
  triggers.found.assign(5, true);
  triggers.converged.assign(5, true);
  const Judgment judgment = judge(triggers, 4);
  EXPECT_NEAR(judgment.spread.median, std::log(100), 1e-9);
  EXPECT_NEAR(judgment.score, std::log(100) / (1.4826 * std::log(2)), 1e-9);
  EXPECT_DOUBLE_EQ(judgment.indices[0], judgment.score);
  EXPECT_NEAR(judgment.indices[4], -1 / 1.4826, 1e-9);
  EXPECT_EQ(judgment.suspects, std::vector<std::int64_t>{0});
  EXPECT_TRUE(judge(triggers, 5).suspects.empty());
}

TEST(Judge, ASuspicionHoldsIfUnfinishedSearchesCannotChangeIt) {
  Triggers triggers;
  triggers.sizes = {1, 100, 101, 102, 103, 104, 105};
  triggers.found.assign(7, true);
  triggers.converged.assign(7, true);

  EXPECT_EQ(judge(triggers, 4).suspects, std::vector<std::int64_t>{0});
  EXPECT_TRUE(judge(triggers, 4).conclusive);

  triggers.converged[0] = triggers.converged[3] = false;  // one more class may end at 1
  EXPECT_EQ(judge(triggers, 4).suspects, std::vector<std::int64_t>{0});
  EXPECT_TRUE(judge(triggers, 4).conclusive);

  triggers.converged[1] = triggers.converged[2] = false;  // the median itself may be 1
  EXPECT_EQ(judge(triggers, 4).suspects, std::vector<std::int64_t>{0});
  EXPECT_FALSE(judge(triggers, 4).conclusive);

  triggers.found[0] = false;  // a trigger that does not work says nothing
  EXPECT_TRUE(judge(triggers, 4).suspects.empty());
  EXPECT_FALSE(judge(triggers, 4).conclusive);
}

TEST(Judge, NothingIsFoundOnlyWhenEverySearchHasEnded) {
  Triggers triggers;
  triggers.sizes = {30, 31, 32, 33};
  triggers.found.assign(4, true);
  triggers.converged.assign(4, true);
  EXPECT_TRUE(judge(triggers, 2).conclusive);
  triggers.converged[2] = false;
  EXPECT_FALSE(judge(triggers, 2).conclusive);
}

}  // namespace
}  // namespace backstop::trigger_search
