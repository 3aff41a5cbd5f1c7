#include "decode.hpp"

#include <random>
#include <string>
#include <vector>

#include <zlib.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "testing.hpp"

namespace backstop::images {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Image decode_text(const std::string& bytes) {
  return decode("a.file", {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
}

/// Expects a refusal whose message starts with this text after the file's name.
void expect_refused(const std::string& bytes, const std::string& problem) {
  try {
    decode_text(bytes);
    ADD_FAILURE() << "accepted what should be refused as: " << problem;
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(), StartsWith("a.file: " + problem));
    EXPECT_FALSE(error.hint().empty());
  }
}

void expect_image(const std::string& bytes, std::int64_t width, std::int64_t height,
                  const std::vector<std::uint8_t>& rgb) {
  const Image image = decode_text(bytes);
  EXPECT_EQ(image.width, width);
  EXPECT_EQ(image.height, height);
  EXPECT_EQ(image.rgb, rgb);
}

std::vector<std::uint8_t> gray_as_rgb(const std::vector<std::uint8_t>& gray) {
  std::vector<std::uint8_t> rgb;
  for (const std::uint8_t value : gray) rgb.insert(rgb.end(), 3, value);
  return rgb;
}

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(value >> shift & 0xff);
  return bytes;
}

TEST(DecodePnm, ReadsColorAndGray) {
  expect_image(ppm(5, 3, 1), 5, 3, pixels(5, 3, 1));
  const std::vector<std::uint8_t> gray = pixels(4, 2, 2, 1);
  expect_image("P5 4\t2\n# a comment\n255\n" + text_of(gray), 4, 2, gray_as_rgb(gray));
}

TEST(DecodePnm, RefusesOtherTypesAndDepths) {
  expect_refused("P3\n1 1\n255\n1 2 3\n", "is a PNM of type P3, expected P6 (PPM) or P5 (PGM)");
  expect_refused("P6\n1 1\n65535\n123456", "has pixels of 0 to 65535, expected 0 to 255");
}

TEST(DecodePnm, RefusesPixelsThatDoNotMatchTheHeader) {
  const std::string file = ppm(5, 3, 1);
  expect_refused(file.substr(0, file.size() - 1),
                 "has 44 bytes of pixels, expected 45 (5 x 3 x 3)");
  expect_refused(file + "x", "has 46 bytes of pixels, expected 45 (5 x 3 x 3)");
  expect_refused("P6\n99999999999999999999 1\n255\n",
                 "has no width in its header, expected a number up to 999999");
  expect_refused("P6\n-1 1\n255\n", "has no width in its header");
  expect_refused("P6\n0 7\n255\n", "is 0 x 7 pixels, expected at least 1 x 1");
}

TEST(DecodePng, ReadsEveryTypeAsEightBitRgb) {
  const std::vector<std::uint8_t> rgb = pixels(5, 3, 1);
  expect_image(png(5, 3, 1), 5, 3, rgb);
  expect_image(png(5, 3, PNG_COLOR_TYPE_RGB, 8, rgb, true), 5, 3, rgb);
  const std::vector<std::uint8_t> gray = pixels(5, 3, 2, 1);
  expect_image(png(5, 3, PNG_COLOR_TYPE_GRAY, 8, gray), 5, 3, gray_as_rgb(gray));
  expect_image(png(2, 1, PNG_COLOR_TYPE_GRAY, 1, {0b01000000}), 2, 1, {0, 0, 0, 255, 255, 255});
  expect_image(png(2, 1, PNG_COLOR_TYPE_PALETTE, 1, {0b01000000}), 2, 1,
               {10, 20, 30, 200, 100, 50});
  // 16 bits are rounded, not truncated: 0x01ff is 1.996 of 255.
  expect_image(png(2, 1, PNG_COLOR_TYPE_GRAY, 16, {0x01, 0xff, 0xfe, 0x00}), 2, 1,
               {2, 2, 2, 253, 253, 253});
}

TEST(DecodePng, DropsTransparencyAndKeepsTheColorBelow) {
  expect_image(png(2, 1, PNG_COLOR_TYPE_RGB_ALPHA, 8, {1, 2, 3, 0, 4, 5, 6, 128}), 2, 1,
               {1, 2, 3, 4, 5, 6});
  expect_image(png(2, 1, PNG_COLOR_TYPE_GRAY_ALPHA, 8, {9, 0, 7, 255}), 2, 1, {9, 9, 9, 7, 7, 7});
}

TEST(DecodePng, RefusesSizesBeyondTheLimits) {
  // Replaces the header alone, with the right checksum; nothing else is needed.
  const auto announce = [](std::uint32_t width, std::uint32_t height) {
    const std::string chunk =
        "IHDR" + big_endian(width) + big_endian(height) + std::string("\x08\x02\0\0\0", 5);
    const auto checksum = static_cast<std::uint32_t>(
        crc32(0, reinterpret_cast<const Bytef*>(chunk.data()), static_cast<uInt>(chunk.size())));
    const std::string ours = "\x89PNG\r\n\x1a\n" + big_endian(13) + chunk + big_endian(checksum);
    return ours + png(5, 3, 1).substr(ours.size());
  };
  expect_image(announce(5, 3), 5, 3, pixels(5, 3, 1));
  expect_refused(announce(16385, 1), "is 16385 x 1 pixels, expected at most 16384 on a side");
  expect_refused(announce(16384, 16384),
                 "is 16384 x 16384 pixels, 805306368 bytes as RGB, expected at most 67108864");
  expect_refused(announce(4000, 4000), "is a damaged PNG");  // ends too early
}

TEST(DecodePng, StopsAtMoreImageDataThanItsSizeNeeds) {
  const std::vector<std::uint8_t> gray = {5, 6, 7, 8};
  for (const bool interlaced : {false, true}) {
    const std::string file = png(4, 1, PNG_COLOR_TYPE_GRAY, 8, gray, interlaced);
    // Three passes of one row each: columns 0, then 2, then 1 and 3.
    const std::string rows =
        interlaced ? std::string("\0\5\0\7\0\6\x8", 7) : std::string("\0\5\6\7\x8", 5);
    expect_image(with_rows(file, rows), 4, 1, gray_as_rgb(gray));
    expect_refused(with_rows(file, rows + std::string(200'000, '\0')),
                   "is a damaged PNG (it has more image data than its size needs)");
  }
}

TEST(DecodePng, RefusesChangedPixels) {
  std::string file = png(5, 3, 1);
  file[file.size() / 2] = static_cast<char>(file[file.size() / 2] ^ 1);
  expect_refused(file, "is a damaged PNG (");
}

// 12 x 10 pixels, 4:2:0, written by Pillow; decoded by Pillow with libjpeg's slow integer DCT.
constexpr std::uint8_t kJpeg[] = {
    0xff, 0xd8, 0xff, 0xe0, 0x00, 0x10, 0x4a, 0x46, 0x49, 0x46, 0x00, 0x01, 0x01, 0x00, 0x00, 0x01,
    0x00, 0x01, 0x00, 0x00, 0xff, 0xdb, 0x00, 0x43, 0x00, 0x14, 0x0e, 0x0f, 0x12, 0x0f, 0x0d, 0x14,
    0x12, 0x10, 0x12, 0x17, 0x15, 0x14, 0x18, 0x1e, 0x32, 0x21, 0x1e, 0x1c, 0x1c, 0x1e, 0x3d, 0x2c,
    0x2e, 0x24, 0x32, 0x49, 0x40, 0x4c, 0x4b, 0x47, 0x40, 0x46, 0x45, 0x50, 0x5a, 0x73, 0x62, 0x50,
    0x55, 0x6d, 0x56, 0x45, 0x46, 0x64, 0x88, 0x65, 0x6d, 0x77, 0x7b, 0x81, 0x82, 0x81, 0x4e, 0x60,
    0x8d, 0x97, 0x8c, 0x7d, 0x96, 0x73, 0x7e, 0x81, 0x7c, 0xff, 0xdb, 0x00, 0x43, 0x01, 0x15, 0x17,
    0x17, 0x1e, 0x1a, 0x1e, 0x3b, 0x21, 0x21, 0x3b, 0x7c, 0x53, 0x46, 0x53, 0x7c, 0x7c, 0x7c, 0x7c,
    0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c,
    0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c,
    0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0xff, 0xc0,
    0x00, 0x11, 0x08, 0x00, 0x0a, 0x00, 0x0c, 0x03, 0x01, 0x22, 0x00, 0x02, 0x11, 0x01, 0x03, 0x11,
    0x01, 0xff, 0xc4, 0x00, 0x16, 0x00, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x02, 0x04, 0xff, 0xc4, 0x00, 0x21, 0x10, 0x00, 0x02,
    0x01, 0x04, 0x01, 0x05, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02,
    0x03, 0x00, 0x04, 0x11, 0x31, 0x12, 0x05, 0x13, 0x22, 0x41, 0x61, 0x32, 0xff, 0xc4, 0x00, 0x14,
    0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x03, 0xff, 0xc4, 0x00, 0x1b, 0x11, 0x01, 0x00, 0x02, 0x02, 0x03, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x02, 0x03, 0x12, 0x11, 0x21, 0x31, 0xff,
    0xda, 0x00, 0x0c, 0x03, 0x01, 0x00, 0x02, 0x11, 0x03, 0x11, 0x00, 0x3f, 0x00, 0xdf, 0x3c, 0x92,
    0x2a, 0xac, 0xbd, 0x44, 0xc7, 0x13, 0xaf, 0xe4, 0x29, 0xde, 0xb3, 0xec, 0xfc, 0xa3, 0x6e, 0x24,
    0xb8, 0xef, 0x37, 0x6e, 0x01, 0xc3, 0xd7, 0x26, 0x19, 0xab, 0xe9, 0x6c, 0xd7, 0x42, 0xe1, 0xae,
    0x58, 0xcc, 0x51, 0xbc, 0x4c, 0x87, 0x97, 0x1d, 0xeb, 0x3a, 0xd0, 0xa6, 0xe3, 0x86, 0x26, 0x5c,
    0x98, 0xd0, 0x9f, 0xaa, 0x28, 0x72, 0xdb, 0x40, 0xb3, 0xdc, 0x41, 0xd7, 0x90, 0xf6, 0x7f, 0xff,
    0xd9};

TEST(DecodeJpeg, ReturnsTheSamePixelsAsPillow) {
  const Image image = decode("a.jpg", kJpeg);
  ASSERT_EQ(image.width, 12);
  ASSERT_EQ(image.height, 10);
  EXPECT_THAT(std::vector<std::uint8_t>(image.rgb.begin(), image.rgb.begin() + 12),
              ElementsAre(247, 225, 255, 245, 230, 255, 201, 199, 239, 217, 226, 255));
  EXPECT_THAT(std::vector<std::uint8_t>(image.rgb.end() - 6, image.rgb.end()),
              ElementsAre(237, 198, 141, 236, 203, 134));
  EXPECT_EQ(crc32(0, image.rgb.data(), static_cast<uInt>(image.rgb.size())), 0xcd5c2506);
}

TEST(DecodeJpeg, ReadsGray) {
  const Image image =
      decode_text(jpeg(16, 8, std::vector<std::uint8_t>(16 * 8, 77), TJPF_GRAY, TJSAMP_GRAY));
  EXPECT_THAT(image.rgb, ::testing::Each(77));
  EXPECT_EQ(image.rgb.size(), 3U * 16 * 8);
}

TEST(DecodeJpeg, RefusesCmyk) {
  expect_refused(jpeg(8, 8, pixels(8, 8, 1, 4), TJPF_CMYK, TJSAMP_444),
                 "is a JPEG in CMYK, expected RGB or gray");
}

TEST(DecodeJpeg, RefusesTruncatedFiles) {
  const std::string file = jpeg(64, 64, 1);
  expect_refused(file.substr(0, file.size() / 2), "is a damaged JPEG (Premature end of JPEG file)");
  // Without its last two bytes it has all its pixels, but it is still not the original file.
  expect_refused(file.substr(0, file.size() - 2), "is a damaged JPEG (");
}

TEST(Decode, RefusesAnythingButImages) {
  expect_refused("", "is empty, expected an image");
  expect_refused("hello", "is not an image: it starts with 68 65 6c 6c, expected JPEG, PNG");
  expect_refused("GIF89a...", "is a GIF, expected JPEG, PNG, PPM or PGM");
  expect_refused("BM6...", "is a BMP, expected JPEG, PNG, PPM or PGM");
  expect_refused(std::string("RIFF\0\0\0\0WEBPVP8 ", 16), "is a WebP image, expected JPEG");
  expect_refused(std::string("II*\0....", 8), "is a TIFF, expected JPEG");
  expect_refused("B", "is not an image: it starts with 42,");
}

/// Small files of every format.
std::vector<std::string> samples() {
  return {ppm(5, 3, 1),
          "P5 4 2 255\n" + text_of(pixels(4, 2, 2, 1)),
          png(5, 3, 1),
          png(5, 3, PNG_COLOR_TYPE_RGB_ALPHA, 16, pixels(5, 3, 3, 8), true),
          png(2, 1, PNG_COLOR_TYPE_PALETTE, 1, {0b01000000}),
          jpeg(17, 9, 1),
          jpeg(16, 8, pixels(16, 8, 1, 1), TJPF_GRAY, TJSAMP_GRAY)};
}

TEST(Decode, RefusesEveryTruncatedFile) {
  for (const std::string& file : samples()) {
    ASSERT_NO_THROW(decode_text(file));
    for (std::size_t size = 0; size < file.size(); ++size)
      EXPECT_THROW(decode_text(file.substr(0, size)), EnvironmentError)
          << file.substr(0, 3) << ' ' << size;
  }
}

TEST(Decode, SurvivesMutatedFiles) {
  std::mt19937 random(1);
  const auto below = [&](std::size_t limit) { return random() % limit; };
  int accepted = 0, refused = 0;
  for (int round = 0; round < 500; ++round) {
    for (std::string file : samples()) {
      for (std::size_t i = 0; i <= below(4); ++i)
        file[below(file.size())] = static_cast<char>(random());
      try {
        const Image image = decode_text(file);
        ASSERT_EQ(std::ssize(image.rgb), 3 * image.width * image.height);
        ++accepted;
      } catch (const EnvironmentError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(accepted, 500);
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace backstop::images
