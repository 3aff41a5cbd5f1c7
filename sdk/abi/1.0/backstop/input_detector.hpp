// Detectors that score images, to tell those with a trigger from those without. A defense offers
// this through Defense::query, and says so in its manifest with `detects = ["inputs"]`.
#pragma once

#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/abi.h"
#include "backstop/context.hpp"
#include "backstop/defense.hpp"

namespace backstop {
inline namespace v1 {

/// Implemented by plugins, beside Defense. The host calls prepare() once, and then scores() with
/// batches in which clean and triggered test images are mixed in random order. What `ctx` gives out
/// in prepare() (clones, subsets), and `model`, are valid until the last call of scores() has
/// returned. Both functions leave `model` as it was; it is in evaluation mode. [run thread]
class InputDetector {
 public:
  static constexpr std::string_view kId = "backstop.input-detector/1";

  /// Learns what the detector needs to know of `model`. `data` is what the plugin's `needs` asks
  /// for, and none of it comes from the test set. Returns the threshold: an image is called
  /// triggered if its score reaches it. It may come from the paper, or from the scores of the
  /// defender's clean images; there is nothing else to choose it by. [run thread]
  virtual double prepare(Context& ctx, Model& model, const DefenderData& data) = 0;
  /// A score for each of `images` (float32 [n, C, H, W] in [0, 1]): [n], higher for an image that
  /// more likely has a trigger, and finite. It depends on that image, on `model` and on what
  /// prepare() learned, never on the other images of the batch or on earlier batches: the host
  /// scores one batch again in two halves and compares. Gradient mode is off. [run thread]
  virtual at::Tensor scores(Context& ctx, Model& model, const at::Tensor& images) = 0;

 protected:
  InputDetector() = default;
  InputDetector(const InputDetector&) = default;
  InputDetector& operator=(const InputDetector&) = default;
  ~InputDetector() = default;
};

}  // namespace v1
}  // namespace backstop
