// Finds GTSRB's images and annotations, laid out as in the benchmark's archives or as on Kaggle:
//
//   Final_Training/Images/00000/ ... 00042/, each with GT-00000.csv    Train/0/ ... 42/, Train.csv
//   Final_Test/Images/, GT-final_test.csv there or above               Test/, Test.csv
#pragma once

#include <filesystem>

#include "shared/images/image_dataset.hpp"

namespace backstop::gtsrb {

/// `root` may also be the folder that contains GTSRB/. Throws EnvironmentError, also unless every
/// image has exactly one annotation and every annotation an image.
images::Listing find_signs(const std::filesystem::path& root, bool crop);

}  // namespace backstop::gtsrb
