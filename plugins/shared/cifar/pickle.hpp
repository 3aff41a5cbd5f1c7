// Reads the pickles of the Python version of CIFAR-10 and CIFAR-100. A pickle is a program for a
// machine that may call any function of Python; this reader runs the few instructions that the
// official files consist of, knows three names (those that make a numpy array), imports and calls
// nothing, and refuses everything else by name. The image bytes stay in the file: the reader says
// where they are, so that they can be read straight to where they are wanted.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "shared/files/file.hpp"

namespace backstop::cifar {

struct Pickle {
  std::uint64_t data_offset = 0;     ///< of the array's first byte in the file
  std::int64_t images = 0;           ///< the array is uint8 [images, 3072]
  bool column_major = false;         ///< all images' first bytes, then all their second bytes ...
  std::vector<std::int64_t> labels;  ///< one an image, as found
};

/// The array under the key "data" and the list of integers under `labels_key`. Needs less than
/// 64 MiB whatever the file says. Throws EnvironmentError.
Pickle read_pickle(const files::File& file, std::string_view labels_key);

}  // namespace backstop::cifar
