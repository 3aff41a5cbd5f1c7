// Finds the images of a folder, and their classes: train/ and test/ (or val/) with one folder a
// class in each, one folder a class alone, or Tiny ImageNet's own way.
#pragma once

#include <cstdint>
#include <filesystem>

#include "shared/images/image_dataset.hpp"

namespace backstop::image_folder {

/// Classes are the folders' names in the order of their bytes; words.txt gives them better names.
/// `test_fraction` and `split_seed` are for a folder without test images. Throws EnvironmentError.
images::Listing find_images(const std::filesystem::path& root, double test_fraction,
                            std::int64_t split_seed);

}  // namespace backstop::image_folder
