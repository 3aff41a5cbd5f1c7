#include "decode.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "formats.hpp"

namespace backstop::images {
namespace {

using namespace std::string_view_literals;

bool starts_with(Bytes bytes, std::string_view text, std::size_t at = 0) {
  return bytes.size() >= at + text.size() &&
         std::equal(text.begin(), text.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
                    [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; });
}

/// Image formats that are not supported but found in such folders.
std::string_view other_format(Bytes bytes) {
  if (starts_with(bytes, "GIF8"sv)) return "a GIF";
  if (starts_with(bytes, "BM"sv)) return "a BMP";
  if (starts_with(bytes, "RIFF"sv) && starts_with(bytes, "WEBP"sv, 8)) return "a WebP image";
  if (starts_with(bytes, "II*\0"sv) || starts_with(bytes, "MM\0*"sv)) return "a TIFF";
  if (starts_with(bytes, "ftypavif"sv, 4)) return "an AVIF image";
  if (starts_with(bytes, "ftyphei"sv, 4)) return "a HEIC image";
  return {};
}

std::string first_bytes(Bytes bytes) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : bytes.first(std::min<std::size_t>(4, bytes.size()))) {
    if (!text.empty()) text += ' ';
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

}  // namespace

Image make_image(const std::string& file, std::int64_t height, std::int64_t width) {
  const std::string size = std::to_string(width) + " x " + std::to_string(height) + " pixels";
  if (height < 1 || width < 1) refuse(file, "is " + size + ", expected at least 1 x 1", kCopyAgain);
  const std::string hint = "scale the image down: it is resized to a small one anyway";
  if (height > kMaximumSide || width > kMaximumSide)
    refuse(file, "is " + size + ", expected at most " + std::to_string(kMaximumSide) + " on a side",
           hint);
  if (3 * height * width > kMaximumBytes)
    refuse(file,
           "is " + size + ", " + std::to_string(3 * height * width) +
               " bytes as RGB, expected at most " + std::to_string(kMaximumBytes),
           hint);
  Image image{height, width, {}};
  image.rgb.resize(static_cast<std::size_t>(3 * height * width));
  return image;
}

Image decode(const std::string& file, Bytes bytes) {
  if (bytes.empty()) refuse(file, "is empty, expected an image", kCopyAgain);
  if (starts_with(bytes, "\xff\xd8\xff"sv)) return decode_jpeg(file, bytes);
  if (starts_with(bytes, "\x89PNG\r\n\x1a\n"sv)) return decode_png(file, bytes);
  if (bytes.size() > 1 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '7')
    return decode_pnm(file, bytes);
  const std::string_view other = other_format(bytes);
  if (!other.empty())
    refuse(file, "is " + std::string(other) + ", expected JPEG, PNG, PPM or PGM",
           "convert it to PNG");
  refuse(
      file,
      "is not an image: it starts with " + first_bytes(bytes) + ", expected JPEG, PNG, PPM or PGM",
      "remove the file from the folder, or copy it again");
}

}  // namespace backstop::images
