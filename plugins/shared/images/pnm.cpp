#include <cstddef>
#include <cstring>

#include "formats.hpp"

namespace backstop::images {
namespace {

/// Reads the numbers of the header, between which there may be white space and comments.
class Header {
 public:
  Header(const std::string& file, Bytes bytes) : file_(file), bytes_(bytes) {}

  std::int64_t number(const char* what) {
    skip();
    std::int64_t value = 0;
    const std::size_t first = at_;
    for (; at_ < bytes_.size() && bytes_[at_] >= '0' && bytes_[at_] <= '9'; ++at_) {
      value = 10 * value + (bytes_[at_] - '0');
      if (value > kLargest) break;
    }
    if (at_ == first || value > kLargest)
      refuse(file_,
             std::string("has no ") + what + " in its header, expected a number up to 999999",
             kCopyAgain);
    return value;
  }

  /// The pixels, which start after one white space.
  Bytes rest() {
    if (at_ == bytes_.size() || !is_space(bytes_[at_]))
      refuse(file_, "has no white space after its header", kCopyAgain);
    return bytes_.subspan(at_ + 1);
  }

 private:
  static constexpr std::int64_t kLargest = 999999;
  static bool is_space(std::uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

  void skip() {
    while (at_ < bytes_.size() && (is_space(bytes_[at_]) || bytes_[at_] == '#')) {
      if (bytes_[at_] == '#') {
        while (at_ < bytes_.size() && bytes_[at_] != '\n' && bytes_[at_] != '\r') ++at_;
      } else {
        ++at_;
      }
    }
  }

  const std::string& file_;
  Bytes bytes_;
  std::size_t at_ = 2;
};

}  // namespace

Image decode_pnm(const std::string& file, Bytes bytes) {
  if (bytes[1] != '5' && bytes[1] != '6')
    refuse(file,
           std::string("is a PNM of type P") + static_cast<char>(bytes[1]) +
               ", expected P6 (PPM) or P5 (PGM)",
           "convert it to PNG");
  const std::int64_t channels = bytes[1] == '6' ? 3 : 1;
  Header header(file, bytes);
  const std::int64_t width = header.number("width");
  const std::int64_t height = header.number("height");
  const std::int64_t maximum = header.number("maximum");
  if (maximum != 255)
    refuse(file, "has pixels of 0 to " + std::to_string(maximum) + ", expected 0 to 255",
           "convert it to 8 bits, or to PNG");
  const Bytes pixels = header.rest();
  const auto got = static_cast<std::int64_t>(pixels.size());
  // Compared before anything is allocated; 10^6 x 10^6 x 3 fits into 64 bits.
  if (got != channels * width * height)
    refuse(file,
           "has " + std::to_string(got) + " bytes of pixels, expected " +
               std::to_string(channels * width * height) + " (" + std::to_string(width) + " x " +
               std::to_string(height) + " x " + std::to_string(channels) + ")",
           kCopyAgain);
  Image image = make_image(file, height, width);
  if (channels == 3) {
    std::memcpy(image.rgb.data(), pixels.data(), pixels.size());
  } else {
    for (std::size_t i = 0; i < pixels.size(); ++i)
      std::memset(image.rgb.data() + 3 * i, pixels[i], 3);
  }
  return image;
}

}  // namespace backstop::images
