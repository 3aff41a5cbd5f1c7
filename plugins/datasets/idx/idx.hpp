// Reads the IDX files of MNIST and of the datasets that took over its format: one file of images
// and one of labels for each split, plain or compressed with gzip. The file without `.gz` is taken
// where both are there. What a file announces is compared with what the caller expects before
// anything is allocated or inflated, so a hostile file costs no more memory than an honest one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "backstop/dataset.hpp"

namespace backstop::idx {

struct Expected {
  std::int64_t images = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t classes = 0;
};

/// The images, uint8 [images, 1, height, width], and labels of `<prefix>-images-idx3-ubyte[.gz]`
/// and
/// `<prefix>-labels-idx1-ubyte[.gz]`. `source` is the hint for somebody who lacks the files. Throws
/// EnvironmentError for everything that is missing or not as expected.
Samples read_files(const std::filesystem::path& folder, const std::string& prefix,
                   const Expected& expected, const std::string& source);

/// A split of MNIST's own shape: 60,000 training or 10,000 test images of 28 x 28 in 10 classes.
Samples read_split(const std::filesystem::path& folder, Split split, const std::string& source);

}  // namespace backstop::idx
