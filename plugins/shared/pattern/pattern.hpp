// What the attacks with a picture for a trigger share: the parameters `pattern` and `image`,
// pictures from PNG files and of noise, and how they are blended into images.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "backstop/attack.hpp"
#include "backstop/params.hpp"

namespace backstop::pattern {

/// The parameter `image`. Throws ParameterError unless it is given exactly when `pattern` is
/// "image".
std::optional<std::string> image_file(const Params& params);

/// The PNG file as float [channels, height, width] in [0, 1]. Files may be hostile: throws
/// EnvironmentError.
at::Tensor read_png(const std::string& file, std::int64_t channels);

/// Linear interpolation; when shrinking, over all pixels that a new one covers.
at::Tensor resized(const at::Tensor& pattern, std::int64_t height, std::int64_t width);

/// A pattern over the whole image, kept with the model as "pattern".
class Pattern {
 public:
  /// Reads `pattern` ("noise", "smooth" or "image") and `image`.
  explicit Pattern(const Params& params);

  /// Draws or reads the pattern, of the size of the set's images.
  void draw(at::Generator& generator, const ImageSet& set);
  /// (1 - alpha) * images + alpha * pattern, the pattern resized where the images have another
  /// size. The same bits at every place of every batch.
  [[nodiscard]] at::Tensor blended_into(const at::Tensor& images, double alpha) const;

  void save(StateWriter& state) const;
  void load(const StateReader& state);

 private:
  std::string_view kind_;
  std::optional<std::string> image_;
  at::Tensor pattern_;  // [C, H, W] in [0, 1]
};

}  // namespace backstop::pattern
