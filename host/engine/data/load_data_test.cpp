#include "host/engine/data/load_data.hpp"

#include <csignal>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "backstop/resize.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

StageContext context(const std::atomic<int>* interrupted = nullptr) {
  return {{"data", "test"}, 0, {}, {}, nullptr, interrupted};
}

at::Tensor random_images(std::int64_t count, std::int64_t height, std::int64_t width) {
  at::Generator generator = make_generator(1);
  return at::randint(0, 256, {count, 3, height, width}, generator, at::kByte);
}

TEST(Resized, KeepsTheOrderOfTheRows) {
  const at::Tensor images = random_images(5, 12, 20);
  StageContext ctx = context();
  const at::Tensor result = resized(images, at::tensor({4, 1, 4}, at::kLong), 8, ctx);
  ASSERT_EQ(result.sizes(), at::IntArrayRef({3, 3, 8, 8}));
  const Resizer resizer(12, 20, 8, 8);
  for (const auto& [position, row] : {std::pair{0, 4}, std::pair{1, 1}, std::pair{2, 4}}) {
    at::Tensor expected = at::empty({3, 8, 8}, at::kByte);
    resizer.planes(images[row].data_ptr<std::uint8_t>(), 3, expected.data_ptr<std::uint8_t>());
    EXPECT_TRUE(result[position].equal(expected)) << position;
  }
}

TEST(Resized, StopsWhenTheRunIsInterrupted) {
  const std::atomic<int> interrupted = SIGINT;
  StageContext ctx = context(&interrupted);
  EXPECT_THROW(resized(random_images(2, 9, 9), at::arange(2, at::kLong), 8, ctx), Cancelled);
}

TEST(Seeds, DifferByPurposeAndSeed) {
  EXPECT_EQ(seed_for(1, "data/train"), seed_for(1, "data/train"));
  EXPECT_NE(seed_for(1, "data/train"), seed_for(1, "data/test"));
  EXPECT_NE(seed_for(1, "data/train"), seed_for(2, "data/train"));
}

}  // namespace
}  // namespace backstop::engine
