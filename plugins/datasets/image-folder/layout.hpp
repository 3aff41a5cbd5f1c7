// Finds the images of a folder and their classes. The folder holds train/ and test/ (or val/), each
// with one folder per class, or just one folder per class, or Tiny ImageNet.
#pragma once

#include <cstdint>
#include <filesystem>

#include "shared/images/image_dataset.hpp"

namespace backstop::image_folder {

/// The classes are the names of the folders in byte order; words.txt may give them better names.
/// `test_fraction` and `split_seed` matter only for a folder without test images. Throws
/// EnvironmentError.
images::Listing find_images(const std::filesystem::path& root, double test_fraction,
                            std::int64_t split_seed);

}  // namespace backstop::image_folder
