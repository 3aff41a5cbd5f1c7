#include "pattern.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include <png.h>
#include <zlib.h>

#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/util/StringUtil.h>

#include "backstop/error.hpp"
#include "shared/files/file.hpp"

namespace backstop::pattern {
namespace {

// A picture is decoded whole before it is shrunk; one of this size takes 192 MiB as floats.
constexpr std::uint32_t kLargestSide = 4096;
// Uncompressed, with four channels of 16 bits, such a picture takes 128 MiB.
constexpr std::uint64_t kLargestFile = std::uint64_t{160} << 20;
// "smooth" draws a grid with this many points along each side and interpolates between them.
constexpr std::int64_t kSmoothPoints = 5;

at::Tensor smooth(at::Generator& generator, std::int64_t channels, std::int64_t height,
                  std::int64_t width) {
  const at::Tensor points = at::rand({1, channels, kSmoothPoints, kSmoothPoints}, generator);
  const at::Tensor drawn = at::upsample_bilinear2d(points, {height, width}, true).squeeze(0);
  // Interpolation pulls values toward the mean; the pattern is to be as strong as the others.
  const at::Tensor low = drawn.amin({1, 2}, true);
  return drawn.sub(low).div_(drawn.amax({1, 2}, true).sub_(low).clamp_min_(1e-6));
}

[[noreturn]] void refuse(const std::string& file, const std::string& reason) {
  throw EnvironmentError("cannot read the PNG file " + file + ": " + reason,
                         "name a PNG file of at most " + std::to_string(kLargestSide) + " x " +
                             std::to_string(kLargestSide) + " pixels");
}

std::vector<png_byte> bytes_of(const std::string& file) {
  const files::File source(file, {"a PNG file", "name a PNG file", "name a PNG file"});
  if (source.size() > kLargestFile)
    refuse(file, "it has " + std::to_string(source.size()) + " bytes, more than " +
                     std::to_string(kLargestFile));
  std::vector<png_byte> bytes(source.size());
  source.read(0, bytes.data(), bytes.size());
  return bytes;
}

/// Whether the image data (the IDAT chunks) decompress to more than `most` bytes. libpng reads all
/// that follow the last row before it drops them: from a small file, they could be terabytes.
bool holds_more_than(const std::vector<png_byte>& bytes, std::uint64_t most) {
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
  std::vector<png_byte> out(std::size_t{1} << 16);
  std::uint64_t total = 0;
  int code = Z_OK;
  // Chunks have a length, a type, data and a checksum; what is wrong with them libpng says.
  for (std::size_t at = 8; code == Z_OK && bytes.size() - at >= 12;) {
    const std::size_t size =
        std::min<std::size_t>(png_get_uint_32(&bytes[at]), bytes.size() - at - 12);
    if (std::equal(&bytes[at + 4], &bytes[at + 8], "IDAT")) {
      stream.next_in = const_cast<png_byte*>(&bytes[at + 8]);
      stream.avail_in = static_cast<uInt>(size);
      while (code == Z_OK && (stream.avail_in > 0 || stream.avail_out == 0)) {
        stream.next_out = out.data();
        stream.avail_out = static_cast<uInt>(out.size());
        code = inflate(&stream, Z_NO_FLUSH);
        total += out.size() - stream.avail_out;
        if (total > most) return true;
      }
      if (code == Z_BUF_ERROR) code = Z_OK;  // needs the next chunk
    }
    at += size + 12;
  }
  return false;
}

}  // namespace

std::optional<std::string> image_file(const Params& params) {
  const std::string kind{params.string("pattern")};
  if (!params.has("image")) {
    if (kind == "image")
      throw ParameterError("`pattern` is \"image\", but `image` is missing",
                           "name a PNG file: image = \"pattern.png\"");
    return std::nullopt;
  }
  std::string file{params.string("image")};
  if (kind != "image")
    throw ParameterError("`image` is \"" + file + "\", but `pattern` is \"" + kind + "\"",
                         "write pattern = \"image\", or leave `image` out");
  return file;
}

at::Tensor read_png(const std::string& file, std::int64_t channels) {
  const std::vector<png_byte> bytes = bytes_of(file);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, void (*)(png_image*)> end(&image, png_image_free);
  const auto fail = [&](const std::string& reason) { refuse(file, reason); };
  if (png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) == 0)
    fail(image.message);
  if (image.width > kLargestSide || image.height > kLargestSide)
    fail("it has " + std::to_string(image.height) + " x " + std::to_string(image.width) +
         " pixels, more than " + std::to_string(kLargestSide) + " along a side");
  // As it is stored, a pixel has at most 8 bytes, and a row one more in each of seven passes.
  const std::uint64_t most = (8 * std::uint64_t{image.width} + 7) * image.height;
  if (holds_more_than(bytes, most)) fail("it has more image data than its size needs");
  image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  const auto height = static_cast<std::int64_t>(image.height);
  const auto width = static_cast<std::int64_t>(image.width);
  std::vector<png_byte> pixels(PNG_IMAGE_SIZE(image));
  const png_color black{};  // shows through transparent pixels
  if (png_image_finish_read(&image, &black, pixels.data(), 0, nullptr) == 0) fail(image.message);
  return at::from_blob(pixels.data(), {height, width, channels}, at::kByte)
      .permute({2, 0, 1})
      .contiguous()
      .to(at::kFloat)
      .div_(255);
}

at::Tensor resized(const at::Tensor& pattern, std::int64_t height, std::int64_t width) {
  if (pattern.size(1) == height && pattern.size(2) == width) return pattern;
  return at::_upsample_bilinear2d_aa(pattern.unsqueeze(0), {height, width}, false).squeeze(0);
}

Pattern::Pattern(const Params& params)
    : kind_(params.string("pattern")), image_(image_file(params)) {}

void Pattern::draw(at::Generator& generator, const ImageSet& set) {
  const std::int64_t channels = set.channels();
  const std::int64_t height = set.height();
  const std::int64_t width = set.width();
  if (image_)
    pattern_ = resized(read_png(*image_, channels), height, width);
  else if (kind_ == "smooth")
    pattern_ = smooth(generator, channels, height, width);
  else
    pattern_ = at::rand({channels, height, width}, generator);
}

at::Tensor Pattern::blended_into(const at::Tensor& images, double alpha) const {
  if (pattern_.size(0) != images.size(1))
    throw ParameterError("the pattern has " + std::to_string(pattern_.size(0)) +
                             " channels, but the images have " + std::to_string(images.size(1)),
                         "use images with as many channels as those that the pattern was made for");
  // Two roundings and no fused multiply-add: the same bits at every position in every batch.
  const at::Tensor share = resized(pattern_, images.size(2), images.size(3)).mul(alpha);
  return images.mul(1 - alpha).add_(share.to(images.device())).clamp_(0, 1);
}

void Pattern::save(StateWriter& state) const {
  state.tensor("pattern", pattern_);
}

void Pattern::load(const StateReader& state) {
  const at::Tensor pattern = state.tensor("pattern");
  if (pattern.dim() != 3 || pattern.numel() == 0)
    throw EnvironmentError("the saved pattern must have the shape [channels, height, width], got " +
                               c10::str(pattern.sizes()),
                           "the attack's file is damaged, or is not one of this attack");
  pattern_ = pattern.to(at::kFloat);
}

}  // namespace backstop::pattern
