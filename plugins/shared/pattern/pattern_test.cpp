#include "pattern.hpp"

#include <filesystem>
#include <string>
#include <vector>

#include <png.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "backstop/error.hpp"
#include "shared/images/testing.hpp"
#include "testing.hpp"

using backstop::pattern::PngTest;
using backstop::pattern::read_png;
using backstop::pattern::resized;

TEST_F(PngTest, IsReadInColor) {
  write_png(PNG_FORMAT_RGB, 1, 2, {255, 0, 51, 0, 255, 102});
  EXPECT_TRUE(read_png(file(), 3).allclose(
      at::tensor({1.F, 0.F, 0.F, 1.F, 0.2F, 0.4F}).view({3, 1, 2}), 0, 1e-6));
}

TEST_F(PngTest, IsConvertedToGrayscaleForGrayscaleImages) {
  write_png(PNG_FORMAT_RGB, 1, 3, {255, 255, 255, 102, 102, 102, 0, 255, 0});
  const at::Tensor pattern = read_png(file(), 1);
  EXPECT_EQ(pattern.sizes(), at::IntArrayRef({1, 1, 3}));
  EXPECT_NEAR(pattern[0][0][0].item<float>(), 1, 1e-6);
  EXPECT_NEAR(pattern[0][0][1].item<float>(), 0.4, 0.01);
  EXPECT_GT(pattern[0][0][2].item<float>(), 0.5);  // green is bright, but not white
  EXPECT_LT(pattern[0][0][2].item<float>(), 0.95);
}

TEST_F(PngTest, FillsEveryChannelWhenItIsGrayscale) {
  write_png(PNG_FORMAT_GRAY, 1, 2, {0, 51});
  const at::Tensor expected = at::tensor({0.F, 0.2F}).view({1, 1, 2}).expand({3, 1, 2});
  EXPECT_TRUE(read_png(file(), 3).allclose(expected));
}

TEST_F(PngTest, IsBlackWhereItIsTransparent) {
  write_png(PNG_FORMAT_RGBA, 1, 2, {255, 255, 255, 0, 255, 255, 255, 255});
  const at::Tensor expected = at::tensor({0.F, 1.F}).view({1, 1, 2}).expand({3, 1, 2});
  EXPECT_TRUE(read_png(file(), 3).allclose(expected));
}

TEST_F(PngTest, IsRefusedWhenItIsNotAPng) {
  for (const std::string& content :
       {std::string{}, std::string{"GIF89a"}, std::string(4096, 'x')}) {
    write_bytes(content);
    EXPECT_THROW(read_png(file(), 1), backstop::EnvironmentError);
  }
  std::filesystem::remove(file());
  EXPECT_THROW(read_png(file(), 1), backstop::EnvironmentError);
  std::filesystem::create_directory(file());
  EXPECT_THROW(read_png(file(), 1), backstop::EnvironmentError);
}

TEST_F(PngTest, IsRefusedWhereverItIsTruncated) {
  write_png(PNG_FORMAT_RGB, 8, 8, std::vector<png_byte>(192, 7));
  const std::string whole = bytes();
  // The last chunk, 12 bytes, holds no pixels: a file without it may be read.
  for (std::size_t length = 0; length < whole.size() - 12; ++length) {
    write_bytes(whole.substr(0, length));
    EXPECT_THROW(read_png(file(), 3), backstop::EnvironmentError)
        << length << " of " << whole.size() << " bytes";
  }
}

TEST_F(PngTest, SurvivesEveryFlippedByte) {
  write_png(PNG_FORMAT_RGB, 8, 8, std::vector<png_byte>(192, 7));
  const std::string whole = bytes();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string broken = whole;
    broken[i] = static_cast<char>(~broken[i]);
    write_bytes(broken);
    try {
      EXPECT_EQ(resized(read_png(file(), 3), 8, 8).sizes(), at::IntArrayRef({3, 8, 8}));
    } catch (const backstop::EnvironmentError&) {
    }
  }
}

TEST_F(PngTest, IsRefusedWhenItHoldsMoreThanItsPixels) {
  write_png(PNG_FORMAT_GRAY, 1, 2, {0, 51});
  const std::string png = bytes();
  write_bytes(backstop::images::with_rows(png, std::string("\0\0\x33", 3)));
  EXPECT_NEAR(read_png(file(), 1)[0][0][1].item<float>(), 0.2, 1e-6);
  write_bytes(backstop::images::with_rows(png, std::string(10'000, '\0')));
  try {
    read_png(file(), 1);
    FAIL() << "accepted";
  } catch (const backstop::EnvironmentError& e) {
    EXPECT_EQ(std::string(e.what()), "cannot read the PNG file " + file() +
                                         ": it has more image data than its size needs");
  }
}

TEST_F(PngTest, IsRefusedAtOnceWhenItIsNoFile) {
  ASSERT_EQ(::mkfifo(file().c_str(), 0600), 0);
  EXPECT_THROW(read_png(file(), 1), backstop::EnvironmentError);
  EXPECT_THROW(read_png("/dev/zero", 1), backstop::EnvironmentError);
}

TEST_F(PngTest, IsRefusedWhenItIsTooLarge) {
  write_png(PNG_FORMAT_GRAY, 1, 4097, std::vector<png_byte>(4097, 0));
  try {
    read_png(file(), 1);
    FAIL() << "accepted";
  } catch (const backstop::EnvironmentError& e) {
    EXPECT_EQ(std::string(e.what()), "cannot read the PNG file " + file() +
                                         ": it has 1 x 4097 pixels, more than 4096 along a side");
  }
}

TEST(Resizing, AveragesOverAllPixelsWhenItShrinks) {
  // Every other column is white: gray from afar.
  const at::Tensor stripes =
      at::arange(64, at::kLong).remainder(2).to(at::kFloat).expand({1, 64, 64});
  const at::Tensor small = resized(stripes, 8, 8);
  EXPECT_EQ(small.sizes(), at::IntArrayRef({1, 8, 8}));
  EXPECT_TRUE(small.allclose(at::full({1, 8, 8}, 0.5), 0, 0.05));
}

TEST(Resizing, LeavesAPatternThatFitsUnchanged) {
  const at::Tensor pattern = at::tensor({0.F, 0.3F, 0.7F, 1.F}).view({1, 2, 2});
  EXPECT_TRUE(resized(pattern, 2, 2).equal(pattern));
}
