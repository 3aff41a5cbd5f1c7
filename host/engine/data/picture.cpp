#include "host/engine/data/picture.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include <png.h>

#include <ATen/ATen.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/engine/data/font.hpp"

namespace backstop::engine {

namespace {

/// `pixels`: uint8 [3, H, W].
void write_png(const std::filesystem::path& path, const at::Tensor& pixels) {
  const at::Tensor interleaved = pixels.permute({1, 2, 0}).contiguous();
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(interleaved.size(1));
  image.height = static_cast<png_uint_32>(interleaved.size(0));
  image.format = PNG_FORMAT_RGB;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0,
                                interleaved.data_ptr<std::uint8_t>(), 0, nullptr) == 0)
    throw base::HostError(base::ExitCode::bug,
                          std::string("libpng could not write a picture: ") + image.message);
  bytes.resize(size);
  base::write_file(path, bytes);
}

at::Tensor enlarged(const at::Tensor& pixels, std::int64_t scale) {
  return pixels.repeat_interleave(scale, -2).repeat_interleave(scale, -1);
}

// --- text ---

constexpr std::int64_t kTextScale = 2;
constexpr std::int64_t kAdvance = (kGlyphWidth + 1) * kTextScale;
constexpr std::int64_t kTextHeight = kGlyphHeight * kTextScale;
constexpr std::int64_t kAboveLine = 7 * kTextScale;  // height of a letter without a descender
constexpr int kInk = 40;                             // dark gray

/// Replaces each character that the font lacks by one that stands for all of them. `text` is UTF-8.
std::string drawable(const std::string& text, std::size_t most) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0U) != 0x80U) result += byte < 0x80 ? c : '\x7f';
  }
  if (result.size() > most) result = result.substr(0, most - 3) + "...";
  return result;
}

void draw_text(const at::Tensor& canvas, std::int64_t left, std::int64_t top,
               const std::string& text) {
  at::Tensor line = at::full({kGlyphHeight, std::ssize(text) * (kGlyphWidth + 1)}, 255, at::kByte);
  auto* pixel = line.data_ptr<std::uint8_t>();
  for (int y = 0; y < kGlyphHeight; ++y) {
    for (const char c : text) {
      for (int x = 0; x < kGlyphWidth; ++x) *pixel++ = glyph_pixel(c, x, y) ? kInk : 255;
      ++pixel;
    }
  }
  const at::Tensor large = enlarged(line, kTextScale);
  canvas.slice(1, top, top + large.size(0)).slice(2, left, left + large.size(1)).copy_(large);
}

}  // namespace

void write_image(const std::filesystem::path& path, const at::Tensor& image) {
  write_png(path, image.expand({3, -1, -1}));
}

void write_contact_sheet(const std::filesystem::path& path, const std::string& title,
                         const std::vector<SheetRow>& rows, std::int64_t side) {
  constexpr std::size_t kLongestName = 40;
  constexpr std::int64_t kMargin = 16, kSpace = 4;
  constexpr std::int64_t kHeader = kTextHeight + kMargin;
  std::size_t letters = 0;
  std::int64_t most = 0, height = 0, width = 0;
  for (const SheetRow& row : rows) {
    letters = std::max(letters, drawable(row.name, kLongestName).size());
    most = std::max(most, row.images.size(0));
    height = row.images.size(2);
    width = row.images.size(3);
  }
  const std::int64_t scale = std::max<std::int64_t>(1, side / std::max(height, width));
  const std::int64_t cell_height = std::max(height * scale, kTextHeight) + kSpace;
  const std::int64_t cell_width = width * scale + kSpace;
  const auto label_width = static_cast<std::int64_t>(letters) * kAdvance + kMargin;
  const std::string heading = drawable(title, 200);
  const std::int64_t wide = 2 * kMargin + std::max(label_width + most * cell_width - kSpace,
                                                   std::ssize(heading) * kAdvance);
  const std::int64_t high = 2 * kMargin + kHeader + std::ssize(rows) * cell_height - kSpace;

  const at::Tensor canvas = at::full({3, high, wide}, 255, at::kByte);
  draw_text(canvas, kMargin, kMargin, heading);
  std::int64_t top = kMargin + kHeader;
  for (const SheetRow& row : rows) {
    const std::int64_t middle = top + (cell_height - kSpace) / 2;
    draw_text(canvas, kMargin, middle - kAboveLine / 2, drawable(row.name, kLongestName));
    for (std::int64_t i = 0; i < row.images.size(0); ++i) {
      const std::int64_t left = kMargin + label_width + i * cell_width;
      const std::int64_t upper = middle - height * scale / 2;
      canvas.slice(1, upper, upper + height * scale)
          .slice(2, left, left + width * scale)
          .copy_(enlarged(row.images[i], scale));
    }
    top += cell_height;
  }
  write_png(path, canvas);
}

void write_trigger_picture(const std::filesystem::path& path, const std::string& title,
                           const at::Tensor& clean, const at::Tensor& triggered) {
  const at::Tensor difference = (triggered.to(at::kFloat) - clean.to(at::kFloat)).abs();
  const double factor = 255 / std::max(difference.max().item<double>(), 1.0);
  char name[32];
  std::snprintf(name, sizeof name, "difference x%.3g", factor);
  write_contact_sheet(path, title,
                      {{"clean", clean},
                       {"triggered", triggered},
                       {name, (difference * factor).round().to(at::kByte)}},
                      96);
}

}  // namespace backstop::engine
