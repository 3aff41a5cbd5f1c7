// Creates image files for tests.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <png.h>
#include <turbojpeg.h>
#include <zlib.h>

namespace backstop::images {

/// Pixels that depend on `seed`, uint8 [height, width, channels].
inline std::vector<std::uint8_t> pixels(std::int64_t width, std::int64_t height, unsigned seed,
                                        std::int64_t channels = 3) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(width * height * channels));
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

inline std::string text_of(const std::vector<std::uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

inline std::string ppm(std::int64_t width, std::int64_t height,
                       const std::vector<std::uint8_t>& rgb) {
  return "P6\n" + std::to_string(width) + " " + std::to_string(height) + "\n255\n" + text_of(rgb);
}
inline std::string ppm(std::int64_t width, std::int64_t height, unsigned seed) {
  return ppm(width, height, pixels(width, height, seed));
}

/// A PNG of these rows, which are packed as its color type and depth require.
inline std::string png(std::uint32_t width, std::uint32_t height, int color_type, int depth,
                       std::vector<std::uint8_t> rows, bool interlaced = false) {
  std::string file;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  if (setjmp(png_jmpbuf(png)) != 0) throw std::runtime_error("cannot write a PNG");
  png_set_write_fn(
      png, &file,
      [](png_structp writer, png_bytep bytes, std::size_t size) {
        static_cast<std::string*>(png_get_io_ptr(writer))
            ->append(reinterpret_cast<const char*>(bytes), size);
      },
      [](png_structp) {});
  png_set_IHDR(png, info, width, height, depth, color_type,
               interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  if (color_type == PNG_COLOR_TYPE_PALETTE) {
    const png_color colors[] = {{10, 20, 30}, {200, 100, 50}};
    png_set_PLTE(png, info, colors, 2);
  }
  png_write_info(png, info);
  const std::size_t row_bytes = png_get_rowbytes(png, info);
  std::vector<png_bytep> pointers;
  for (std::size_t at = 0; at < rows.size(); at += row_bytes) pointers.push_back(rows.data() + at);
  png_write_image(png, pointers.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return file;
}
inline std::string png(std::uint32_t width, std::uint32_t height, unsigned seed) {
  return png(width, height, PNG_COLOR_TYPE_RGB, 8, pixels(width, height, seed));
}

/// `png` with these bytes, stored uncompressed, in the place of its rows.
inline std::string with_rows(const std::string& png, const std::string& rows) {
  const auto big_endian = [](std::size_t value) {
    std::string bytes;
    for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(value >> shift & 0xff);
    return bytes;
  };
  const auto* from = reinterpret_cast<const Bytef*>(rows.data());
  uLongf size = compressBound(rows.size());
  std::string data(size, '\0');
  if (compress2(reinterpret_cast<Bytef*>(data.data()), &size, from, rows.size(), 0) != Z_OK)
    throw std::runtime_error("cannot compress rows");
  const std::string chunk = "IDAT" + data.substr(0, size);
  const auto checksum =
      crc32(0, reinterpret_cast<const Bytef*>(chunk.data()), static_cast<uInt>(chunk.size()));
  return png.substr(0, png.find("IDAT") - 4) + big_endian(size) + chunk + big_endian(checksum) +
         png.substr(png.find("IEND") - 4);
}

inline std::string jpeg(int width, int height, const std::vector<std::uint8_t>& bytes,
                        int format = TJPF_RGB, int subsampling = TJSAMP_420, int quality = 90) {
  const tjhandle handle = tjInitCompress();
  unsigned char* encoded = nullptr;
  unsigned long size = 0;  // NOLINT(google-runtime-int): as in turbojpeg.h
  const int failed = tjCompress2(handle, bytes.data(), width, 0, height, format, &encoded, &size,
                                 subsampling, quality, TJFLAG_ACCURATEDCT);
  const std::string file(reinterpret_cast<const char*>(encoded), failed == 0 ? size : 0);
  tjFree(encoded);
  tjDestroy(handle);
  if (failed != 0) throw std::runtime_error("cannot write a JPEG");
  return file;
}
inline std::string jpeg(int width, int height, unsigned seed) {
  return jpeg(width, height, pixels(width, height, seed));
}

}  // namespace backstop::images
