#include "host/engine/data/image_store.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

ImageStore random_store(std::int64_t n, std::int64_t channels, std::int64_t size) {
  at::Generator generator = make_generator(5);
  return {at::randint(0, 256, {n, channels, size, size}, generator, at::kByte),
          at::randint(0, 4, {n}, generator, at::kLong), 4, c10::kCPU};
}

TEST(ImageStore, GivesPixelsBetweenZeroAndOne) {
  at::Tensor pixels = at::zeros({2, 1, 2, 2}, at::kByte);
  pixels[1][0][1][0] = 255;
  const ImageStore store(pixels, at::zeros({2}, at::kLong), 1, c10::kCPU);
  const at::Tensor image = store.images(at::tensor({1}, at::kLong));
  EXPECT_EQ(image[0][0][1][0].item<float>(), 1.0f);
  EXPECT_EQ(image.sum().item<float>(), 1.0f);
}

TEST(ImageStore, BatchEqualsTheSeparateSteps) {
  for (const std::int64_t channels : {1, 3}) {
    const ImageStore store = random_store(20, channels, 9);
    const Normalization normalization{{0.5, 0.4, 0.3}, {0.2, 0.25, 0.3}};
    at::Generator generator = make_generator(1);
    const Draws draws = draw_augmentation({3, true}, 7, generator);
    const at::Tensor positions = at::tensor({4, 0, 19, 3, 3, 8, 11}, at::kLong);
    const at::Tensor batch = store.batch(positions, normalization, draws, false);
    at::Tensor plain = apply_augmentation(store.images(positions), draws);
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto i = static_cast<std::size_t>(c);
      plain.select(1, c).sub_(normalization.mean[i]).div_(normalization.deviation[i]);
    }
    EXPECT_TRUE(batch.allclose(plain, 1e-5, 1e-5)) << channels << " channels";
    EXPECT_TRUE(batch.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_TRUE(store.batch(positions, normalization, draws, true)
                    .to(at::kFloat)
                    .allclose(plain, 1e-2, 1e-2));
  }
}

TEST(ImageStore, ShiftsAndFlipsAsDrawn) {
  const at::Tensor image = at::arange(9, at::kFloat).view({1, 1, 3, 3});
  Draws draws;
  draws.dy = at::tensor({1}, at::kLong);
  draws.dx = at::tensor({0}, at::kLong);
  EXPECT_TRUE(apply_augmentation(image, draws)
                  .flatten()
                  .equal(at::tensor({3, 4, 5, 6, 7, 8, 0, 0, 0}, at::kFloat)));
  draws.dy.zero_();
  draws.flip = at::ones({1}, at::kBool);
  EXPECT_TRUE(apply_augmentation(image, draws)
                  .flatten()
                  .equal(at::tensor({2, 1, 0, 5, 4, 3, 8, 7, 6}, at::kFloat)));
}

TEST(ImageStore, DrawsStayInsideThePadding) {
  at::Generator generator = make_generator(2);
  const Draws draws = draw_augmentation({4, true}, 2000, generator);
  EXPECT_EQ(draws.dx.min().item<std::int64_t>(), -4);
  EXPECT_EQ(draws.dx.max().item<std::int64_t>(), 4);
  EXPECT_NEAR(draws.flip.to(at::kFloat).mean().item<double>(), 0.5, 0.05);
  EXPECT_FALSE(draw_augmentation({0, false}, 5, generator).dx.defined());
}

TEST(ImageStore, SubsetsOfSubsetsKeepTheirOriginalIndices) {
  const ImageStore store = random_store(10, 3, 4);
  const ImageStore part = store.subset(at::tensor({9, 4, 2}, at::kLong));
  const ImageStore one = part.subset(at::tensor({1}, at::kLong));
  EXPECT_EQ(one.size(), 1);
  EXPECT_TRUE(one.indices().equal(at::tensor({4}, at::kLong)));
  EXPECT_TRUE(one.labels().equal(store.labels().slice(0, 4, 5)));
  EXPECT_TRUE(
      one.pixels(at::tensor({0}, at::kLong)).equal(store.pixels(at::tensor({4}, at::kLong))));
}

TEST(ImageStore, ChangedReplacesImagesAndSharesTheRest) {
  at::Tensor pixels = random_store(6, 3, 5).pixels(at::arange(6, at::kLong));
  const ImageStore store(pixels, at::tensor({0, 1, 2, 3, 0, 1}, at::kLong), 4, c10::kCPU);
  const ImageStore part = store.subset(at::tensor({5, 3, 1, 0}, at::kLong));
  const at::Tensor other = at::full({2, 3, 5, 5}, 7, at::kByte);
  const ImageStore changed =
      part.changed(at::tensor({0, 2}, at::kLong), other, at::tensor({2, 3}, at::kLong));
  at::Tensor expected = part.pixels(at::arange(4, at::kLong));
  expected.index_copy_(0, at::tensor({0, 2}, at::kLong), other);

  EXPECT_TRUE(changed.pixels(at::arange(4, at::kLong)).equal(expected));
  EXPECT_TRUE(changed.labels().equal(at::tensor({2, 3, 3, 0}, at::kLong)));
  EXPECT_TRUE(changed.indices().equal(part.indices()));
  const at::Tensor batch = changed.batch(at::tensor({2, 1}, at::kLong), {}, {}, false);
  EXPECT_TRUE(batch.mul(255).round().to(at::kByte).equal(
      expected.index_select(0, at::tensor({2, 1}, at::kLong))));
  EXPECT_TRUE(changed.subset(at::tensor({2}, at::kLong))
                  .pixels(at::tensor({0}, at::kLong))
                  .equal(other.slice(0, 0, 1)));
  EXPECT_TRUE(part.pixels(at::tensor({0}, at::kLong)).equal(pixels.slice(0, 5, 6)))
      << "the set itself must not change";
  pixels.zero_();
  EXPECT_EQ(changed.pixels(at::tensor({1}, at::kLong)).sum().item<std::int64_t>(), 0)
      << "the other images must not be copied";
}

TEST(ImageStore, CanBeChangedNowhere) {
  const ImageStore store = random_store(4, 3, 5);
  const at::Tensor all = at::arange(4, at::kLong), none = at::empty({0}, at::kLong);
  const ImageStore same = store.changed(none, at::empty({0, 3, 5, 5}, at::kByte), none);
  EXPECT_TRUE(same.pixels(all).equal(store.pixels(all)));
  const ImageStore once = same.changed(
      at::tensor({2}, at::kLong), at::zeros({1, 3, 5, 5}, at::kByte), at::zeros({1}, at::kLong));
  EXPECT_EQ(once.changed(none, at::empty({0, 3, 5, 5}, at::kByte), none)
                .pixels(at::tensor({2}, at::kLong))
                .sum()
                .item<std::int64_t>(),
            0);
}

TEST(ImageStore, RoundsToTheNearestOf256Levels) {
  const at::Tensor x = at::tensor({0.0, 0.1, 0.5, 1.0, 1.2, -0.3}, at::kFloat);
  EXPECT_TRUE(to_8_bits(x).to(at::kLong).equal(at::tensor({0, 26, 128, 255, 255, 0}, at::kLong)));
}

}  // namespace
}  // namespace backstop::engine
