// BadNets (Gu et al., 2017): a small opaque patch at a fixed place, and the target label.
//
//   x' = (1 - opacity) * x + opacity * patch   inside the patch, x outside
//
// Defaults: a white patch of 3 x 3 pixels in the bottom right corner, without margin and opaque, as
// in BackdoorBench; the paper itself has no default for CIFAR-sized images. "checkerboard" is the
// trigger of NAD and ABL. Poisoning is the host's usual one: a share of all training images, those
// of the target class included.
//
// Deviation: BackdoorBench paints only the pixels of a trigger that are not black; here a black
// pixel is painted as well.
//
// On images with a black background (Fashion-MNIST, MNIST) a bright patch in a corner fades
// slowly under small learning rates: clean images are zero there and hardly touch the weights that
// see it. docs/results.md has numbers.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>

#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"

namespace {

std::string size_text(std::int64_t height, std::int64_t width) {
  return std::to_string(height) + " x " + std::to_string(width);
}

class BadNets final : public backstop::Attack {
 public:
  explicit BadNets(const backstop::Params& params)
      : size_(params.integer("patch_size")),
        margin_(params.integer("margin")),
        opacity_(params.number("opacity")),
        pattern_(params.string("pattern")),
        position_(params.string("position")) {}

  void prepare(backstop::Context& ctx, const backstop::Threat&,
               const backstop::ImageSet& training_set) override {
    corner(training_set.height(), training_set.width());  // throws before anything is drawn
    patch_ = draw(ctx.generator(), training_set.channels());
  }

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase) override {
    const auto [top, left] = corner(images.size(2), images.size(3));
    if (patch_.size(0) != 1 && patch_.size(0) != images.size(1))
      throw backstop::ParameterError(
          "the patch has " + std::to_string(patch_.size(0)) + " channels, the images have " +
              std::to_string(images.size(1)),
          "a random patch fits images with as many channels as those it was drawn for");
    at::Tensor triggered = images.clone();
    // Two roundings and no fused multiply-add: the same bits at every place of every batch.
    triggered.narrow(2, top, size_)
        .narrow(3, left, size_)
        .mul_(1 - opacity_)
        .add_(patch_.mul(opacity_).to(images.device()))
        .clamp_(0, 1);
    return triggered;
  }

  void save(backstop::StateWriter& state) const override { state.tensor("patch", patch_); }

  void load(backstop::Context&, const backstop::Threat&,
            const backstop::StateReader& state) override {
    at::Tensor patch = state.tensor("patch");
    if (patch.dim() != 3 || patch.size(0) < 1 || patch.size(1) != size_ || patch.size(2) != size_)
      throw backstop::EnvironmentError(
          "the saved patch does not have " + size_text(size_, size_) + " pixels",
          "the model was attacked with another `patch_size`, or its state is damaged");
    patch_ = patch.to(at::kFloat);
  }

 private:
  /// [C, size, size] in [0, 1]; C is 1 where all channels are alike.
  at::Tensor draw(at::Generator& generator, std::int64_t channels) const {
    if (pattern_ == "random") return at::rand({channels, size_, size_}, generator);
    if (pattern_ == "black") return at::zeros({1, size_, size_});
    if (pattern_ == "white") return at::ones({1, size_, size_});
    const at::Tensor row = at::arange(size_, at::kLong);
    return row.view({1, size_, 1}).add(row).remainder(2).eq(0).to(at::kFloat);
  }

  /// The patch's top left pixel (row, column) in an image.
  std::pair<std::int64_t, std::int64_t> corner(std::int64_t height, std::int64_t width) const {
    const std::int64_t margin = position_ == "center" ? 0 : margin_;
    if (size_ + margin > height || size_ + margin > width)
      throw backstop::ParameterError("a patch of " + size_text(size_, size_) +
                                         " pixels with a margin of " + std::to_string(margin) +
                                         " does not fit into images of " + size_text(height, width),
                                     "lower `patch_size` or `margin`");
    if (position_ == "center") return {(height - size_) / 2, (width - size_) / 2};
    return {position_.starts_with("top") ? margin : height - size_ - margin,
            position_.ends_with("left") ? margin : width - size_ - margin};
  }

  std::int64_t size_;
  std::int64_t margin_;
  double opacity_;
  std::string_view pattern_;
  std::string_view position_;
  at::Tensor patch_;
};

}  // namespace

BACKSTOP_PLUGIN(Attack, BadNets)
