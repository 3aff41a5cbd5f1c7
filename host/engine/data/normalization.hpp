// How the pixels of images are normalized for a model.
#pragma once

#include <array>

namespace backstop::engine {

/// Of each channel: (v / 255 - mean) / deviation.
struct Normalization {
  std::array<double, 3> mean{0, 0, 0};
  std::array<double, 3> deviation{1, 1, 1};
};

}  // namespace backstop::engine
