#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <limits>
#include <new>
#include <string_view>

#include <png.h>

#include "formats.hpp"

namespace backstop::images {
namespace {

/// With the last row, libpng decompresses all image data that follow it and drops them: from a small
/// file it could be terabytes. As much as this, compressed, takes a tenth of a second.
constexpr std::size_t kSurplus = std::size_t{1} << 16;

/// libpng reports errors by jumping out of its calls, so the functions that call it must not hold
/// objects with destructors.
struct Reader {
  Bytes rest;
  std::size_t left = std::numeric_limits<std::size_t>::max();  ///< bytes that may still be read
  std::array<char, 128> message{};
  png_structp png = nullptr;
  png_infop info = nullptr;

  explicit Reader(Bytes bytes) : rest(bytes) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &on_error, &on_warning);
    if (png) info = png_create_info_struct(png);
    if (!info) {
      png_destroy_read_struct(&png, nullptr, nullptr);
      throw std::bad_alloc();
    }
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }

  bool read_header() {
    if (setjmp(png_jmpbuf(png)) != 0) return false;  // NOLINT(cert-err52-cpp)
    png_set_read_fn(png, this, &on_read);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // ours have a better message
    // Only pixels are read: no gamma, no profiles, no compressed texts.
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_read_info(png, info);
    return true;
  }

  bool read_pixels(png_bytepp rows, std::size_t row_bytes) {
    if (setjmp(png_jmpbuf(png)) != 0) return false;  // NOLINT(cert-err52-cpp)
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
    const int passes = png_set_interlace_handling(png);
    // A row as it is stored has at most four channels of 16 bits.
    const std::size_t stored_bytes = 8 * std::size_t{png_get_image_width(png, info)};
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != row_bytes) png_error(png, "rows are not RGB");
    const png_uint_32 height = png_get_image_height(png, info);
    for (int pass = 0; pass < passes; ++pass)
      for (png_uint_32 row = 0; row < height; ++row) {
        if (pass + 1 == passes && row + 1 == height) left = stored_bytes + kSurplus;
        png_read_row(png, rows[row], nullptr);
      }
    left = std::numeric_limits<std::size_t>::max();
    png_read_end(png, nullptr);
    return true;
  }

  [[noreturn]] static void on_error(png_structp png, png_const_charp text) {
    auto& reader = *static_cast<Reader*>(png_get_error_ptr(png));
    const std::string_view message = text;
    message.copy(reader.message.data(), reader.message.size() - 1);
    png_longjmp(png, 1);
  }

  /// Warnings do not concern the pixels, only the checksum or order of other chunks.
  static void on_warning(png_structp, png_const_charp) {}

  static void on_read(png_structp png, png_bytep to, std::size_t size) {
    auto& reader = *static_cast<Reader*>(png_get_io_ptr(png));
    if (size > reader.rest.size()) png_error(png, "it ends too early");
    if (size > reader.left) png_error(png, "it has more image data than its size needs");
    reader.left -= size;
    std::memcpy(to, reader.rest.data(), size);
    reader.rest = reader.rest.subspan(size);
  }
};

}  // namespace

Image decode_png(const std::string& file, Bytes bytes) {
  Reader reader(bytes);
  const auto fail = [&] {
    refuse(file, std::string("is a damaged PNG (") + reader.message.data() + ")", kCopyAgain);
  };
  if (!reader.read_header()) fail();
  Image image = make_image(file, png_get_image_height(reader.png, reader.info),
                           png_get_image_width(reader.png, reader.info));
  const auto row_bytes = static_cast<std::size_t>(3 * image.width);
  std::vector<png_bytep> rows;
  for (std::size_t at = 0; at < image.rgb.size(); at += row_bytes)
    rows.push_back(image.rgb.data() + at);
  if (!reader.read_pixels(rows.data(), row_bytes)) fail();
  return image;
}

}  // namespace backstop::images
