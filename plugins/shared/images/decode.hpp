// Decodes an image file in memory: JPEG, PNG, and binary PPM and PGM. The first bytes decide what a
// file is, not its name. Gray becomes RGB, transparency is dropped (the colors below it stay), the
// 16 bits of a PNG become 8, and color profiles, gamma and EXIF orientation are ignored, as in the
// usual training pipelines.
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

/// Part of an image, in pixels: columns left .. right - 1, rows top .. bottom - 1.
struct Box {
  std::int64_t left = 0, top = 0, right = 0, bottom = 0;
};

/// Limits of a decoded image: pixels on a side, and bytes.
inline constexpr std::int64_t kMaximumSide = 1 << 14;
inline constexpr std::int64_t kMaximumBytes = 64 << 20;

/// Throws EnvironmentError, naming `file`, for anything but one complete image within the limits.
Image decode(const std::string& file, std::span<const std::uint8_t> bytes);

}  // namespace backstop::images
