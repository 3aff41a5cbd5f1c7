// Reads one IDX file of unsigned bytes, plain or compressed with gzip. What it announces is
// compared with what the caller expects before anything is inflated, so a hostile file costs no
// more memory than an honest one.
#pragma once

#include <cstdint>
#include <span>

#include "shared/files/file.hpp"

namespace backstop::idx {

/// Reads an array of this very shape into `to`: labels have one dimension, images three. Throws
/// EnvironmentError.
void read_array(const files::File& file, std::span<const std::int64_t> shape, std::uint8_t* to);

}  // namespace backstop::idx
