// How visible a trigger is: peak signal-to-noise ratio and structural similarity.
#pragma once

#include <nlohmann/json.hpp>

#include "host/engine/data/image_store.hpp"

namespace backstop::engine {

/// Both are computed over pixels in 0 .. 255 for each image, then averaged:
///   psnr              10 log10(255^2 / mean squared error) in dB, over the images that the trigger
///                     changes; null when it changes none
///   ssim              Wang et al., 2004: Gaussian windows of 11 x 11 pixels (smaller where images
///                     are) with a deviation of 1.5, K1 = 0.01, K2 = 0.03, no border; mean of the
///                     channels
///   changed_images    how many the trigger changes, of `images`
/// `clean` and `triggered` hold the same images, without and with the trigger.
nlohmann::json image_quality(const ImageStore& clean, const ImageStore& triggered);

}  // namespace backstop::engine
