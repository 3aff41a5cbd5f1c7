// BadNets (Gu et al., 2017): a small opaque patch at a fixed place, and the target label.
//
//   x' = (1 - opacity) * x + opacity * patch   inside the patch, x outside
//
// Defaults: an opaque white patch of 3 x 3 pixels in the bottom right corner, without a margin, as
// in BackdoorBench; the paper itself has no default for CIFAR-sized images. "image" stamps a
// picture of your own. Poisoning is the host's default: a share of all training images, the target
// class included.
//
// Deviations: BackdoorBench paints only those pixels of a trigger that are not black; here a black
// pixel is painted as well. "checkerboard" is white in all corners of the 3 x 3 patch; the trigger
// of NAD and ABL has a black top left pixel instead, and is the same in the other eight.
//
// On images with a black background (Fashion-MNIST, MNIST), the backdoor of a bright patch in a
// corner fades slowly at small learning rates: clean images are zero there and hardly change the
// weights that see it. docs/results.md has numbers.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <c10/util/StringUtil.h>

#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"
#include "pattern.hpp"

namespace {

std::string size_text(std::int64_t height, std::int64_t width) {
  return std::to_string(height) + " x " + std::to_string(width);
}

class BadNets final : public backstop::Attack {
 public:
  explicit BadNets(const backstop::Params& params)
      : height_(params.integer("patch_size")),
        width_(params.has("patch_width") ? params.integer("patch_width") : height_),
        margin_(params.integer("margin")),
        opacity_(params.number("opacity")),
        test_opacity_(params.has("test_opacity") ? params.number("test_opacity") : opacity_),
        pattern_(params.string("pattern")),
        position_(params.string("position")),
        image_(backstop::pattern::image_file(params)),
        row_(coordinate(params, "row")),
        column_(coordinate(params, "column")) {}

  void prepare(backstop::Context& ctx, const backstop::Threat&,
               const backstop::ImageSet& training_set) override {
    corner(training_set.height(), training_set.width());  // throws before anything is drawn
    patch_ = draw(ctx.generator(), training_set.channels());
  }

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase phase) override {
    const auto [top, left] = corner(images.size(2), images.size(3));
    if (patch_.size(0) != 1 && patch_.size(0) != images.size(1))
      throw backstop::ParameterError(
          "the patch has " + std::to_string(patch_.size(0)) + " channels, but the images have " +
              std::to_string(images.size(1)),
          "use images with as many channels as those that the patch was made for");
    const double opacity = phase == backstop::Phase::train ? opacity_ : test_opacity_;
    at::Tensor triggered = images.clone();
    // Two roundings and no fused multiply-add: the same bits at every position in every batch.
    triggered.narrow(2, top, height_)
        .narrow(3, left, width_)
        .mul_(1 - opacity)
        .add_(patch_.mul(opacity).to(images.device()))
        .clamp_(0, 1);
    return triggered;
  }

  void save(backstop::StateWriter& state) const override { state.tensor("patch", patch_); }

  void load(backstop::Context&, const backstop::Threat&,
            const backstop::StateReader& state) override {
    at::Tensor patch = state.tensor("patch");
    if (patch.dim() != 3 || patch.size(0) < 1 || patch.size(1) != height_ ||
        patch.size(2) != width_)
      throw backstop::EnvironmentError(
          "the saved patch must have the shape [channels, " + std::to_string(height_) + ", " +
              std::to_string(width_) + "], got " + c10::str(patch.sizes()),
          "the attack's file was made with a patch of another size, or is damaged");
    patch_ = patch.to(at::kFloat);
  }

 private:
  /// `row` or `column`, given exactly when `position` is "custom".
  static std::int64_t coordinate(const backstop::Params& params, const std::string& key) {
    const std::string position{params.string("position")};
    if (params.has(key) == (position == "custom")) return params.has(key) ? params.integer(key) : 0;
    if (params.has(key))
      throw backstop::ParameterError("`" + key + "` is " + std::to_string(params.integer(key)) +
                                         ", but `position` is \"" + position + "\"",
                                     "write position = \"custom\", or leave `" + key + "` out");
    throw backstop::ParameterError(
        "`position` is \"custom\", but `" + key + "` is missing",
        "give the row and the column of the patch's top left pixel: row = 0, column = 0");
  }

  /// float [C, height, width] in [0, 1]; C is 1 if all channels are alike.
  at::Tensor draw(at::Generator& generator, std::int64_t channels) const {
    if (image_)
      return backstop::pattern::resized(backstop::pattern::read_png(*image_, channels), height_,
                                        width_);
    if (pattern_ == "random") return at::rand({channels, height_, width_}, generator);
    if (pattern_ == "black") return at::zeros({1, height_, width_});
    if (pattern_ == "white") return at::ones({1, height_, width_});
    const at::Tensor row = at::arange(height_, at::kLong).view({1, height_, 1});
    return row.add(at::arange(width_, at::kLong)).remainder(2).eq(0).to(at::kFloat);
  }

  /// The patch's top left pixel (row, column) in an image.
  std::pair<std::int64_t, std::int64_t> corner(std::int64_t height, std::int64_t width) const {
    const auto check = [&](std::int64_t rows, std::int64_t columns, const std::string& place,
                           const char* hint) {
      if (height_ + rows > height || width_ + columns > width)
        throw backstop::ParameterError("a patch of " + size_text(height_, width_) + " pixels " +
                                           place + " does not fit into images of " +
                                           size_text(height, width) + " pixels",
                                       hint);
    };
    if (position_ == "custom") {
      check(row_, column_, "at row " + std::to_string(row_) + ", column " + std::to_string(column_),
            "lower `row`, `column` or the patch's size");
      return {row_, column_};
    }
    const std::int64_t margin = position_ == "center" ? 0 : margin_;
    check(margin, margin, "with a margin of " + std::to_string(margin),
          "lower the patch's size or `margin`");
    if (position_ == "center") return {(height - height_) / 2, (width - width_) / 2};
    return {position_.starts_with("top") ? margin : height - height_ - margin,
            position_.ends_with("left") ? margin : width - width_ - margin};
  }

  std::int64_t height_;
  std::int64_t width_;
  std::int64_t margin_;
  double opacity_;
  double test_opacity_;
  std::string_view pattern_;
  std::string_view position_;
  std::optional<std::string> image_;
  std::int64_t row_, column_;  // of the patch's top left pixel if `position` is "custom"
  at::Tensor patch_;
};

}  // namespace

BACKSTOP_PLUGIN(Attack, BadNets)
