// Makes pixels of an image file in memory: JPEG, PNG, BMP, and binary PPM and PGM. What a file is
// is told by its first bytes, not by its name. Grey becomes RGB, transparency is dropped (the
// colours below it stay), 16 bits of PNG become 8, and colour profiles, gamma and EXIF's
// orientation are ignored, as the usual training pipelines do.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace backstop::images {

struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> rgb;  ///< [height, width, 3]
};

/// A part of an image, in pixels: columns left .. right - 1, rows top .. bottom - 1.
struct Box {
  std::int64_t left = 0, top = 0, right = 0, bottom = 0;
};

/// Pixels on a side, and bytes of a decoded image, at most.
inline constexpr std::int64_t kMaximumSide = 1 << 14;
inline constexpr std::int64_t kMaximumBytes = 64 << 20;

/// Throws EnvironmentError, naming `file`, for anything but one whole image within the limits.
Image decode(const std::string& file, std::span<const std::uint8_t> bytes);

}  // namespace backstop::images
