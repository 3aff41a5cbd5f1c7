#include "host/report/statistics.hpp"

#include <gtest/gtest.h>

#include "host/report/sample_results.hpp"

namespace backstop::report {
namespace {

using Reason = Contribution::Reason;

TEST(Statistics, OfNothingAndOfOneNumber) {
  EXPECT_EQ(spread_of({}).n, 0U);
  const Spread one = spread_of({0.5});
  EXPECT_EQ(one.n, 1U);
  EXPECT_EQ(one.mean, 0.5);
  EXPECT_FALSE(one.deviation);
  EXPECT_FALSE(one.margin);
}

// t(0.975; 2) = 4.302653 and t(0.975; 1) = 12.706205, from tables of Student's t.
TEST(Statistics, DivideByOneLessAndTakeStudentsT) {
  const Spread three = spread_of({1, 2, 3});
  EXPECT_EQ(three.mean, 2);
  ASSERT_TRUE(three.deviation && three.margin);
  EXPECT_DOUBLE_EQ(*three.deviation, 1);
  EXPECT_NEAR(*three.margin, 4.302653 / std::sqrt(3.0), 1e-6);
  EXPECT_NEAR(*spread_of({1, 3}).margin, 12.706205, 1e-6);
}

TEST(Statistics, EqualNumbersHaveNoSpread) {
  const Spread equal = spread_of({0.25, 0.25, 0.25});
  EXPECT_EQ(equal.deviation, 0);
  EXPECT_EQ(equal.margin, 0);
}

TEST(Statistics, ARowWithoutResultIsLeftOutWithItsReason) {
  const Metric& accuracy = *find_metric("clean_accuracy");
  const Metric& success = *find_metric("attack_success_rate");
  nlohmann::json rows = sample_results()["rows"];
  EXPECT_EQ(contribution_of(rows, rows[1], accuracy).value, 0.905);
  rows[2]["warning"] = "collapsed: x";
  EXPECT_EQ(contribution_of(rows, rows[2], accuracy).reason, Reason::collapsed);
  rows[2]["warning"] = "failed: x";
  EXPECT_EQ(contribution_of(rows, rows[2], accuracy).reason, Reason::failed);
  rows[1]["metrics"]["clean_accuracy"] = nullptr;
  EXPECT_EQ(contribution_of(rows, rows[1], accuracy).reason, Reason::no_value);
  rows[0]["warning"] = "attack did not take: x";
  EXPECT_EQ(contribution_of(rows, rows[1], success).reason, Reason::no_backdoor);
  EXPECT_EQ(contribution_of(rows, rows[0], success).reason, Reason::counted);
}

TEST(Statistics, SayWhoIsLeftOut) {
  LeftOut left_out;
  EXPECT_EQ(left_out.text(), "");
  for (const auto reason : {Reason::counted, Reason::collapsed, Reason::failed, Reason::failed,
                            Reason::no_backdoor, Reason::no_value})
    left_out.add(reason);
  EXPECT_EQ(left_out.text(), "1 collapsed, 2 failed, 1 without a backdoor, 1 without a value");
}

}  // namespace
}  // namespace backstop::report
