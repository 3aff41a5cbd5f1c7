// The decoders behind decode(), one file per format.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "decode.hpp"
#include "shared/files/file.hpp"

namespace backstop::images {

using Bytes = std::span<const std::uint8_t>;

Image decode_jpeg(const std::string& file, Bytes bytes);
Image decode_png(const std::string& file, Bytes bytes);
Image decode_pnm(const std::string& file, Bytes bytes);

using files::refuse;
/// A blank image of this size; refuses sizes outside the limits.
Image make_image(const std::string& file, std::int64_t height, std::int64_t width);

inline constexpr const char* kCopyAgain = "the file was damaged: copy it again";

}  // namespace backstop::images
