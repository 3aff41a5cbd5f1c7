#include "triangles.hpp"

#include <gtest/gtest.h>

using backstop::triangles::height;

TEST(Triangles, RiseAndFallBetweenZeroAndOne) {
  const double expected[] = {0, 1. / 3, 2. / 3, 1, 0.5, 0, 1. / 3};
  for (std::int64_t i = 0; i < 7; ++i) EXPECT_DOUBLE_EQ(height(i, 3, 2), expected[i]) << i;
}

TEST(Triangles, AlternateWhereTheyAreTwoIterationsLong) {
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(height(i, 1, 1), i % 2) << i;
}
