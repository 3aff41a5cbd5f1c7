#include "host/engine/run/model_path.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace backstop::engine {
namespace {

TEST(ModelPath, MixesNumbersAndKeepsCounters) {
  const NamedTensors a = {{"weight", at::tensor({0.0F, 8.0F})},
                          {"running_var", at::tensor({1.0F})},
                          {"num_batches_tracked", at::tensor(std::int64_t{7})}};
  // In another order, and with a pruned channel.
  const NamedTensors b = {{"num_batches_tracked", at::tensor(std::int64_t{9})},
                          {"weight", at::tensor({4.0F, 0.0F})},
                          {"running_var", at::tensor({3.0F})}};
  const NamedTensors point = between(a, b, 0.25);
  ASSERT_EQ(point.size(), 3U);
  EXPECT_EQ(point[0].second.item<std::int64_t>(), 9);
  EXPECT_TRUE(point[1].second.equal(at::tensor({1.0F, 6.0F})));
  EXPECT_TRUE(point[2].second.equal(at::tensor({1.5F})));
  EXPECT_TRUE(between(a, b, 0)[1].second.equal(a[0].second));
  EXPECT_TRUE(between(a, b, 1)[1].second.equal(b[1].second));
  EXPECT_TRUE(a[0].second.equal(at::tensor({0.0F, 8.0F})));
}

}  // namespace
}  // namespace backstop::engine
