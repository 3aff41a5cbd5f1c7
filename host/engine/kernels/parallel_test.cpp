#include "host/engine/kernels/parallel.hpp"

#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

namespace backstop::engine {
namespace {

TEST(ShareOut, GivesEachPieceToOneThread) {
  for (const std::int64_t count : {0, 1, 2, 1000}) {
    std::vector<std::atomic<int>> given(static_cast<std::size_t>(count));
    share_out(count, [&](const auto& next) {
      for (std::int64_t i = next(); i < count; i = next()) ++given[static_cast<std::size_t>(i)];
      EXPECT_EQ(next(), count);
    });
    for (const auto& times : given) EXPECT_EQ(times, 1);
  }
}

TEST(ShareOut, WorksInsideOfItself) {
  std::atomic<int> done{0};
  share_out(8, [&](const auto& next) {
    for (std::int64_t i = next(); i < 8; i = next())
      share_out(5, [&](const auto& inner) {
        for (std::int64_t j = inner(); j < 5; j = inner()) ++done;
      });
  });
  EXPECT_EQ(done, 40);
}

TEST(ShareOut, PassesAnErrorOn) {
  EXPECT_THROW(share_out(100, [](const auto&) { throw std::runtime_error("no"); }),
               std::runtime_error);
}

}  // namespace
}  // namespace backstop::engine
