#include "host/engine/kernels/parallel.hpp"

#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

namespace backstop::engine {
namespace {

TEST(ParallelPieces, GiveEachPieceToOneThread) {
  for (const std::int64_t count : {0, 1, 2, 1000}) {
    std::vector<std::atomic<int>> given(static_cast<std::size_t>(count));
    parallel_pieces(count, [&](const auto& next) {
      for (std::int64_t i = next(); i < count; i = next()) ++given[static_cast<std::size_t>(i)];
      EXPECT_EQ(next(), count);
    });
    for (const auto& times : given) EXPECT_EQ(times, 1);
  }
}

TEST(ParallelPieces, CanBeNested) {
  std::atomic<int> done{0};
  parallel_pieces(8, [&](const auto& next) {
    for (std::int64_t i = next(); i < 8; i = next())
      parallel_pieces(5, [&](const auto& inner) {
        for (std::int64_t j = inner(); j < 5; j = inner()) ++done;
      });
  });
  EXPECT_EQ(done, 40);
}

TEST(ParallelPieces, PassOnErrors) {
  EXPECT_THROW(parallel_pieces(100, [](const auto&) { throw std::runtime_error("no"); }),
               std::runtime_error);
}

}  // namespace
}  // namespace backstop::engine
