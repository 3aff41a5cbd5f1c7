#include "host/engine/picture.hpp"

#include <algorithm>

#include <png.h>

#include <ATen/ATen.h>

#include "host/engine/files.hpp"
#include "host/error.hpp"

namespace backstop::host {

namespace {

constexpr std::int64_t kGap = 2;  // pixels between images, before enlarging

/// uint8 [n, C, H, W] to one row of images, uint8 [3, H + gap, n (W + gap)] on white.
at::Tensor row_of(const at::Tensor& images) {
  const at::Tensor rgb = images.expand({images.size(0), 3, images.size(2), images.size(3)});
  const at::Tensor framed = at::constant_pad_nd(rgb, {0, kGap, 0, kGap}, 255);
  return framed.permute({1, 2, 0, 3}).reshape({3, framed.size(2), -1});
}

}  // namespace

void write_trigger_picture(const std::filesystem::path& path, const at::Tensor& clean,
                           const at::Tensor& triggered) {
  const at::Tensor difference = (triggered.to(at::kFloat) - clean.to(at::kFloat)).abs();
  const at::Tensor amplified =
      (difference * (255 / difference.max().clamp_min(1))).round().to(at::kByte);
  const at::Tensor sheet = at::cat({row_of(clean), row_of(triggered), row_of(amplified)}, 1);
  const std::int64_t scale = std::max<std::int64_t>(1, 96 / clean.size(3));
  const at::Tensor pixels =
      sheet.repeat_interleave(scale, 1).repeat_interleave(scale, 2).permute({1, 2, 0}).contiguous();
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(pixels.size(1));
  image.height = static_cast<png_uint_32>(pixels.size(0));
  image.format = PNG_FORMAT_RGB;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.data_ptr<std::uint8_t>(), 0,
                                nullptr) == 0)
    throw HostError(ExitCode::bug,
                    std::string("libpng could not write a picture: ") + image.message);
  bytes.resize(size);
  write_file(path, bytes);
}

}  // namespace backstop::host
