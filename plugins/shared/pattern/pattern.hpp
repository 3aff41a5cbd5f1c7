// Shared by the attacks whose trigger is a picture: the parameters `pattern` and `image`, pictures
// read from PNG files or drawn as noise, and blending a picture into images.
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

/// The picture in a PNG file as float [channels, height, width] in [0, 1]; `channels` is 1 or 3.
/// Throws EnvironmentError if the file cannot be read. Safe on hostile files.
at::Tensor read_png(const std::string& file, std::int64_t channels);

/// `pattern` (float [C, h, w]) resized to height x width by linear interpolation, which averages
/// over all the pixels that a new one covers when it shrinks.
at::Tensor resized(const at::Tensor& pattern, std::int64_t height, std::int64_t width);

/// A pattern over the whole image, saved with the model as "pattern".
class Pattern {
 public:
  /// Reads `pattern` ("noise", "smooth" or "image") and `image`.
  explicit Pattern(const Params& params);

  /// Draws or reads the pattern, in the size of the set's images.
  void draw(at::Generator& generator, const ImageSet& set);
  /// (1 - alpha) * images + alpha * pattern, with the pattern resized to the images. An image gets
  /// the same bits at every position in every batch. Throws ParameterError if the images have
  /// another number of channels.
  [[nodiscard]] at::Tensor blended_into(const at::Tensor& images, double alpha) const;

  void save(StateWriter& state) const;
  /// Throws EnvironmentError if the state holds no tensor of a pattern's shape.
  void load(const StateReader& state);

 private:
  std::string_view kind_;
  std::optional<std::string> image_;
  at::Tensor pattern_;  // [C, H, W] in [0, 1]
};

}  // namespace backstop::pattern
