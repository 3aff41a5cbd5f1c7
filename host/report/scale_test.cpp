#include "host/report/scale.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace backstop::report {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

Scale scale_of(const Axis& axis, const std::vector<double>& values, int ticks = 5) {
  Extent extent(axis);
  for (const double value : values) extent.add(value);
  return {extent, ticks};
}

std::vector<std::string> texts(const Scale& scale) {
  std::vector<std::string> result;
  for (const auto& tick : scale.ticks()) result.push_back(tick.text);
  return result;
}

TEST(Scale, PutsTicksAtMultiplesOfOneTwoAndFive) {
  EXPECT_THAT(texts(scale_of({}, {0, 1})), ElementsAre("0.0", "0.2", "0.4", "0.6", "0.8", "1.0"));
  EXPECT_THAT(texts(scale_of({}, {3, 41})), ElementsAre("0", "10", "20", "30", "40", "50"));
  EXPECT_THAT(texts(scale_of({}, {-0.03, 0.05}, 4)),
              ElementsAre("-0.04", "-0.02", "0.00", "0.02", "0.04", "0.06"));
  EXPECT_THAT(texts(scale_of({}, {0, 24000}, 3)), ElementsAre("0", "10,000", "20,000", "30,000"));
  EXPECT_THAT(texts(scale_of({}, {0, 3e6}, 3)), ElementsAre("0", "1e6", "2e6", "3e6"));
  EXPECT_THAT(texts(scale_of({}, {0, 3e-5}, 3)), ElementsAre("0", "1e-5", "2e-5", "3e-5"));
}

TEST(Scale, EndsWhereItWasAsked) {
  const Scale scale = scale_of({.minimum = 0, .maximum = 1}, {0.31, 0.33});
  EXPECT_DOUBLE_EQ(scale.place(0.31), 0.31);
  EXPECT_DOUBLE_EQ(scale_of({.minimum = 0, .maximum = 1}, {2}).place(1), 0.5)
      << "a point beyond must be seen";
  Extent extent({.minimum = 0, .maximum = 1});
  extent.add(0.9);
  extent.add(Interval{0.7, 1.1});
  EXPECT_DOUBLE_EQ(Scale(extent, 5).place(1.1), 1) << "an interval is cut off";
  EXPECT_DOUBLE_EQ(Scale(extent, 5).place(0.9), 0.9);
}

TEST(Scale, MakesRoomForAnIntervalWhereNoEndWasAsked) {
  Extent extent(Axis{});
  extent.add(1);
  extent.add(Interval{-9, 11});
  EXPECT_THAT(texts({extent, 4}), ElementsAre("-10", "-5", "0", "5", "10", "15"));
}

TEST(Scale, KeepsToWholeNumbers) {
  EXPECT_THAT(texts(scale_of({.whole = true}, {0, 2}, 8)), ElementsAre("0", "1", "2"));
}

TEST(Scale, CountsInDecades) {
  const Scale scale = scale_of({.logarithmic = true}, {0.002, 50});
  EXPECT_THAT(texts(scale), ElementsAre("0.001", "0.01", "0.1", "1", "10", "100"));
  EXPECT_DOUBLE_EQ(scale.place(0.1), 0.4);
  EXPECT_THAT(texts(scale_of({.logarithmic = true}, {2, 7})), ElementsAre("1", "2", "5", "10"));
  EXPECT_THAT(texts(scale_of({.logarithmic = true}, {1e-30, 1e30})), SizeIs(6));
}

TEST(Scale, LeavesOutWhatItCannotShow) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THAT(texts(scale_of({}, {nan, infinity, -infinity, 1e300, 0, 2}, 2)),
              ElementsAre("0", "1", "2"));
  EXPECT_THAT(texts(scale_of({.logarithmic = true}, {-1, 0, 1, 10})),
              ElementsAre("1", "2", "5", "10"));
  EXPECT_FALSE(Extent(Axis{.logarithmic = true}).shows(0));
}

TEST(Scale, HasAPlaceForEverything) {
  constexpr double kTiny = 5e-324;
  for (const bool logarithmic : {false, true})
    for (const bool whole : {false, true})
      for (const auto& values : {std::vector<double>{},
                                 {0},
                                 {1},
                                 {-7, -7},
                                 {1e16, 1e16 + 2},
                                 {-1e100, 1e100},
                                 {0, kTiny},
                                 {kTiny, kTiny},
                                 {1e-90, 1.0000001e-90},
                                 {1e99, 1e-99}})
        for (const auto& axis : {Axis{}, Axis{.minimum = 0}, Axis{.maximum = 0},
                                 Axis{.minimum = -1e300, .maximum = 1e-9}}) {
          Axis tried = axis;
          tried.logarithmic = logarithmic;
          tried.whole = whole;
          const Scale scale = scale_of(tried, values);
          EXPECT_LE(scale.ticks().size(), 20U);
          for (const double value : values)
            EXPECT_TRUE(!Extent(tried).shows(value) || std::isfinite(scale.place(value))) << value;
          for (const auto& tick : scale.ticks())
            EXPECT_TRUE(tick.place >= 0 && tick.place <= 1) << tick.text;
        }
}

}  // namespace
}  // namespace backstop::report
