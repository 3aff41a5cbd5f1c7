#include "backstop/resize.hpp"

#include <cstdint>
#include <stdexcept>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using backstop::Resizer;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

namespace {

using Pixels = std::vector<std::uint8_t>;

/// (37 i^2 + 11 i) mod 256.
Pixels pattern(std::int64_t height, std::int64_t width) {
  Pixels pixels;
  for (std::int64_t i = 0; i < height * width; ++i)
    pixels.push_back(static_cast<std::uint8_t>((37 * i * i + 11 * i) % 256));
  return pixels;
}

Pixels resize(const Pixels& from, std::int64_t height, std::int64_t width, std::int64_t to_height,
              std::int64_t to_width) {
  Pixels to(static_cast<std::size_t>(to_height * to_width));
  Resizer(height, width, to_height, to_width).planes(from.data(), 1, to.data());
  return to;
}

// Exactly what Pillow 9.4 returns for Image.resize(size, Image.BILINEAR) of the same gray image.
TEST(Resize, ShrinksLikePillow) {
  EXPECT_THAT(resize(pattern(5, 6), 5, 6, 3, 4),
              ElementsAre(58, 122, 115, 205, 149, 193, 125, 169, 130, 180, 161, 169));
  EXPECT_THAT(resize(pattern(4, 9), 4, 9, 2, 2), ElementsAre(146, 143, 162, 138));
}

TEST(Resize, EnlargesLikePillow) {
  EXPECT_THAT(resize(pattern(3, 4), 3, 4, 5, 6),
              ElementsAre(0, 24, 68, 150, 140, 110, 50, 82, 119, 144, 127, 105, 124, 168, 196, 134,
                          108, 98, 141, 120, 113, 169, 185, 187, 152, 88, 58, 192, 236, 246));
}

TEST(Resize, KeepsAnImageOfTheTargetSize) {
  EXPECT_EQ(resize(pattern(7, 5), 7, 5, 7, 5), pattern(7, 5));
}

TEST(Resize, KeepsConstantImagesConstant) {
  for (const std::uint8_t gray : Pixels{0, 1, 127, 254, 255}) {
    for (const std::int64_t side : {1, 2, 13, 64, 700})
      EXPECT_THAT(resize(Pixels(static_cast<std::size_t>(side * 31), gray), side, 31, 8, 9),
                  Each(gray))
          << side;
    EXPECT_THAT(resize(Pixels(Resizer::kMaximum, gray), 1, Resizer::kMaximum, 1, 1), Each(gray));
  }
}

TEST(Resize, UsesEveryPixelWhenShrinking) {
  Pixels stripes(64 * 64);
  for (std::size_t i = 0; i < stripes.size(); ++i) stripes[i] = i % 2 == 0 ? 0 : 255;
  EXPECT_THAT(resize(stripes, 64, 64, 8, 8),
              Each(::testing::AllOf(::testing::Ge(120), ::testing::Le(135))));
}

TEST(Resize, ReadsInterleavedChannelsAndCrops) {
  // Channel 1 of the part [1:6, 2:6] of an image with 8 rows, 7 columns and three channels.
  Pixels image(8 * 7 * 3, 200);
  const Pixels part = pattern(5, 4);
  for (std::size_t y = 0; y < 5; ++y) {
    for (std::size_t x = 0; x < 4; ++x) image[((y + 1) * 7 + x + 2) * 3 + 1] = part[y * 4 + x];
  }
  Pixels to(3 * 3);
  Resizer(5, 4, 3, 3).plane(image.data() + (7 + 2) * 3 + 1, 3, 7 * 3, to.data());
  EXPECT_THAT(to, ElementsAreArray(resize(part, 5, 4, 3, 3)));
}

TEST(Resize, TreatsChannelsAlike) {
  Pixels three = pattern(6, 6);
  const Pixels one = three;
  three.insert(three.end(), one.begin(), one.end());
  three.insert(three.end(), one.begin(), one.end());
  Pixels to(3 * 4 * 4);
  Resizer(6, 6, 4, 4).planes(three.data(), 3, to.data());
  for (const std::size_t channel : {0U, 1U, 2U})
    EXPECT_EQ(Pixels(to.begin() + static_cast<std::ptrdiff_t>(16 * channel),
                     to.begin() + static_cast<std::ptrdiff_t>(16 * channel + 16)),
              resize(one, 6, 6, 4, 4));
}

TEST(Resize, RefusesSizesOutOfRange) {
  EXPECT_THROW(Resizer(0, 4, 4, 4), std::invalid_argument);
  EXPECT_THROW(Resizer(4, 4, 4, -1), std::invalid_argument);
  EXPECT_THROW(Resizer(4, Resizer::kMaximum + 1, 4, 4), std::invalid_argument);
}

}  // namespace
