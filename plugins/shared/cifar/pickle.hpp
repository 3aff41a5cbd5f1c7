// Reads the pickles of the Python version of CIFAR-10 and CIFAR-100. A pickle is a program for a
// machine that may call any Python function. This reader runs only the few instructions that the
// official files consist of, knows three names (those that make a numpy array), imports and calls
// nothing, and refuses everything else by name. The image bytes stay in the file: the reader
// returns their offset, so that they can be read straight into the tensor.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "shared/files/file.hpp"

namespace backstop::cifar {

struct Pickle {
  std::uint64_t data_offset = 0;     ///< offset of the array's first byte in the file
  std::int64_t images = 0;           ///< the array is uint8 [images, 3072]
  bool column_major = false;         ///< the first bytes of all images, then the second bytes ...
  std::vector<std::int64_t> labels;  ///< one per image, not yet checked
};

/// The array under the key "data" and the list of integers under `labels_key`. Needs less than
/// 64 MiB for any file. Throws EnvironmentError.
Pickle read_pickle(const files::File& file, std::string_view labels_key);

}  // namespace backstop::cifar
