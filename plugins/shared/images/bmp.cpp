#include <array>
#include <cstddef>

#include "formats.hpp"

namespace backstop::images {
namespace {

std::uint32_t little_endian(Bytes bytes, std::size_t at, std::size_t size) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value |= std::uint32_t{bytes[at + i]} << (8 * i);
  return value;
}

constexpr std::size_t kFileHeader = 14, kInfoHeader = 40;

/// The masks of 32-bit pixels lie where a file without masks has its channels.
bool usual_masks(Bytes bytes) {
  return bytes.size() >= kFileHeader + kInfoHeader + 12 &&
         little_endian(bytes, kFileHeader + kInfoHeader, 4) == 0xff0000 &&
         little_endian(bytes, kFileHeader + kInfoHeader + 4, 4) == 0xff00 &&
         little_endian(bytes, kFileHeader + kInfoHeader + 8, 4) == 0xff;
}

}  // namespace

Image decode_bmp(const std::string& file, Bytes bytes) {
  if (bytes.size() < kFileHeader + kInfoHeader)
    refuse(file,
           "has " + std::to_string(bytes.size()) + " bytes, expected a BMP's header of " +
               std::to_string(kFileHeader + kInfoHeader),
           kCopyAgain);
  const std::string convert = "convert it to PNG";
  const std::size_t header = little_endian(bytes, 14, 4);
  if (header < kInfoHeader || header > bytes.size() - kFileHeader)
    refuse(file,
           "is a BMP with a header of " + std::to_string(header) + " bytes, expected 40 to " +
               std::to_string(bytes.size() - kFileHeader),
           convert);
  const std::int64_t width = static_cast<std::int32_t>(little_endian(bytes, 18, 4));
  const std::int64_t signed_height = static_cast<std::int32_t>(little_endian(bytes, 22, 4));
  const bool top_down = signed_height < 0;
  const std::int64_t height = top_down ? -signed_height : signed_height;
  const std::uint32_t bits = little_endian(bytes, 28, 2);
  const std::uint32_t compression = little_endian(bytes, 30, 4);
  if (bits != 8 && bits != 24 && bits != 32)
    refuse(file, "is a BMP of " + std::to_string(bits) + " bits a pixel, expected 8, 24 or 32",
           convert);
  constexpr std::uint32_t kPlain = 0, kMasks = 3;
  if (compression != kPlain && !(compression == kMasks && bits == 32 && usual_masks(bytes)))
    refuse(file,
           "is a BMP of compression " + std::to_string(compression) +
               ", expected 0 (none) or 3 (masks) with blue, green and red in this order",
           convert);
  Image image = make_image(file, height, width);

  std::size_t colours = 0;
  const std::size_t palette = kFileHeader + header;
  if (bits == 8) {
    const std::uint32_t announced = little_endian(bytes, 46, 4);
    colours = announced == 0 ? 256 : announced;
    if (colours > 256 || palette + 4 * colours > bytes.size())
      refuse(file,
             "announces a palette of " + std::to_string(colours) +
                 " colours, expected at most 256, and all of them in the file",
             kCopyAgain);
  }
  const std::size_t start = little_endian(bytes, 10, 4);
  const std::size_t row_bytes = (static_cast<std::size_t>(width) * bits + 31) / 32 * 4;
  const std::size_t needed = row_bytes * static_cast<std::size_t>(height);
  if (start < palette + 4 * colours || start > bytes.size() || bytes.size() - start < needed)
    refuse(file,
           "has " + std::to_string(bytes.size()) + " bytes with pixels from byte " +
               std::to_string(start) + " on, expected " + std::to_string(needed) +
               " bytes of pixels after the header",
           kCopyAgain);

  const std::size_t step = bits / 8;
  std::uint8_t* to = image.rgb.data();
  for (std::int64_t y = 0; y < height; ++y) {
    const auto row = static_cast<std::size_t>(top_down ? y : height - 1 - y);
    const std::uint8_t* pixel = bytes.data() + start + row * row_bytes;
    for (std::int64_t x = 0; x < width; ++x, pixel += step, to += 3) {
      const std::uint8_t* blue = pixel;
      if (bits == 8) {
        if (*pixel >= colours)
          refuse(file,
                 "has a pixel of colour " + std::to_string(*pixel) + ", expected less than the " +
                     std::to_string(colours) + " colours of its palette",
                 kCopyAgain);
        blue = bytes.data() + palette + 4 * std::size_t{*pixel};
      }
      to[0] = blue[2];
      to[1] = blue[1];
      to[2] = blue[0];
    }
  }
  return image;
}

}  // namespace backstop::images
