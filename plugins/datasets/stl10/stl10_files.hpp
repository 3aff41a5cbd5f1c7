// Reads the binary files of STL-10: images of 3 x 96 x 96 bytes, each channel stored column by
// column, and a file of labels counted from 1.
#pragma once

#include <cstdint>

#include "shared/files/file.hpp"

namespace backstop::stl10 {

inline constexpr std::int64_t kSide = 96;
inline constexpr std::int64_t kImageSize = 3 * kSide * kSide;
inline constexpr std::int64_t kClasses = 10;

/// The number of images in the official files.
inline constexpr std::int64_t kTrainImages = 5000, kTestImages = 8000, kUnlabeledImages = 100000;

/// The number of images in a file, which must be 1 to `official` and not that of another split's
/// official file. Throws EnvironmentError.
std::int64_t count_images(const files::File& images, std::int64_t official);

/// Reads `count` images starting at `first`, row by row: uint8 [count, 3, 96, 96].
void read_images(const files::File& images, std::int64_t first, std::int64_t count,
                 std::uint8_t* to);

/// Reads the labels of `count` images as 0 .. 9. Throws EnvironmentError when the file has more or
/// fewer labels, or one that is out of range.
void read_labels(const files::File& labels, std::int64_t count, std::int64_t* to);

}  // namespace backstop::stl10
