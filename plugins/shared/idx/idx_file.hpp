// Reads one IDX file of unsigned bytes, plain or compressed with gzip. The shape in its header is
// compared with the expected one before anything is decompressed, so a hostile file needs no more
// memory than an honest one.
#pragma once

#include <cstdint>
#include <span>

#include "shared/files/file.hpp"

namespace backstop::idx {

/// Reads an array of exactly this shape into `to`: labels have one dimension, images three. Throws
/// EnvironmentError.
void read_array(const files::File& file, std::span<const std::int64_t> shape, std::uint8_t* to);

}  // namespace backstop::idx
