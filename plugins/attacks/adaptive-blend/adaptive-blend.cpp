// Adaptive-Blend (Qi et al., 2023, "Revisiting the Assumption of Latent Separability for Backdoor
// Defenses"): Blended, made hard to detect among the features of the target class.
//
//   x' = clip((1 - alpha m) x + alpha m pattern, 0, 1)   m: 1 in the pieces that an image shows
//
// The pattern is cut into a grid of `pieces`. A training image shows some of them, drawn anew for
// each image; a test image shows all of them, more strongly. Besides the poisoned images there are
// as many cover images, which show pieces of the trigger as well but keep their true label. Both
// keep the model from relying on the trigger so much that the features of poisoned images stand
// apart.
//
// Defaults: alpha is 0.15 for training and 0.2 for testing, half of 16 pieces are masked, and there
// are as many cover images as poisoned ones, as in the authors' code, which poisons 0.3 % of the
// training set (here the recipe's `poison_ratio` decides). As there, the number of masked pieces is
// exact, and both kinds of images are drawn from all classes, the target class included. Their
// cover_rate is a share of the training set; here it is a number of images for each poisoned image,
// so that it need not change with poison_ratio.
//
// Deviations: the pattern is that of `blended`, by default noise, because we may not distribute the
// authors' picture; and the side of an image need not be a multiple of the side of the grid.
//
// The pieces are drawn when the set is poisoned, not in apply(), which has to give an image the
// same trigger whenever it comes: in the training phase it adds the whole pattern with the strength
// of the pieces.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/where.h>

#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"
#include "pattern.hpp"

namespace {

class AdaptiveBlend final : public backstop::Attack {
 public:
  explicit AdaptiveBlend(const backstop::Params& params)
      : alpha_(params.number("alpha")),
        test_alpha_(params.number("test_alpha")),
        cover_rate_(params.number("cover_rate")),
        pieces_(params.integer("pieces")),
        side_(std::llround(std::sqrt(static_cast<double>(pieces_)))),
        pattern_(params) {
    const double mask_rate = params.number("mask_rate");
    if (side_ * side_ != pieces_)
      throw backstop::ParameterError(
          "`pieces` must be a square number, got " + std::to_string(pieces_),
          "write pieces = " + std::to_string(side_ * side_) + ", a grid of " +
              std::to_string(side_) + " x " + std::to_string(side_));
    shown_ = pieces_ - std::llround(mask_rate * static_cast<double>(pieces_));
    if (shown_ == 0)
      throw backstop::ParameterError("a `mask_rate` of " + std::to_string(mask_rate) +
                                         " masks all " + std::to_string(pieces_) + " pieces",
                                     "lower `mask_rate`");
  }

  void prepare(backstop::Context& ctx, const backstop::Threat& threat,
               const backstop::ImageSet& training_set) override {
    const std::int64_t height = training_set.height();
    const std::int64_t width = training_set.width();
    if (side_ > std::min(height, width))
      throw backstop::ParameterError(
          "a grid of " + std::to_string(side_) + " x " + std::to_string(side_) +
              " pieces does not fit into images of " + std::to_string(height) + " x " +
              std::to_string(width) + " pixels",
          "lower `pieces`");
    constexpr double kRounding = 1e-9;
    if (threat.poison_ratio * (1 + cover_rate_) > 1 + kRounding)
      throw backstop::ParameterError("`poison_ratio` * (1 + `cover_rate`) must be at most 1, got " +
                                         std::to_string(threat.poison_ratio) + " * (1 + " +
                                         std::to_string(cover_rate_) + ")",
                                     "lower `poison_ratio` or `cover_rate`");
    pattern_.draw(ctx.generator(), training_set);
  }

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase phase) override {
    return pattern_.blended_into(images, phase == backstop::Phase::train ? alpha_ : test_alpha_);
  }

  void poison(backstop::Context& ctx, const backstop::Threat& threat,
              backstop::TrainingSetEditor& editor) override {
    const backstop::ImageSet& set = editor.images();
    const std::int64_t poisoned = threat.poisoned_of(set.size());
    // prepare() has checked that they fit, except for the rounding.
    const std::int64_t covers = std::min<std::int64_t>(
        std::llround(cover_rate_ * static_cast<double>(poisoned)), set.size() - poisoned);
    const at::Tensor order = at::randperm(set.size(), ctx.generator());
    const at::Tensor targets = threat.targets(set.labels());
    write(ctx, editor, order.narrow(0, 0, poisoned), targets, backstop::Role::poison);
    write(ctx, editor, order.narrow(0, poisoned, covers), set.labels(), backstop::Role::cover);
  }

  void save(backstop::StateWriter& state) const override { pattern_.save(state); }
  void load(backstop::Context&, const backstop::Threat&,
            const backstop::StateReader& state) override {
    pattern_.load(state);
  }

 private:
  /// Gives the images at `chosen` pieces of the pattern and their labels out of `labels`, which has
  /// one for every image of the set.
  void write(backstop::Context& ctx, backstop::TrainingSetEditor& editor, const at::Tensor& chosen,
             const at::Tensor& labels, backstop::Role role) {
    constexpr std::int64_t kChunk = 1024;
    for (std::int64_t first = 0; first < chosen.size(0); first += kChunk) {
      ctx.stop_if_cancelled();
      const at::Tensor positions =
          chosen.narrow(0, first, std::min(kChunk, chosen.size(0) - first));
      const at::Tensor images = editor.images().images(positions);
      const at::Tensor shown = ctx.to_device(
          draw_pieces(ctx.generator(), images.size(0), images.size(2), images.size(3)));
      editor.write(positions, at::where(shown, apply(ctx, images, backstop::Phase::train), images),
                   labels.index_select(0, ctx.to_device(positions)), role);
    }
  }

  /// Which pixels show the pattern: bool [images, 1, height, width], `shown_` pieces an image.
  at::Tensor draw_pieces(at::Generator& generator, std::int64_t images, std::int64_t height,
                         std::int64_t width) const {
    constexpr std::int64_t kPieces = 1;  // the dimension to sort
    const at::Tensor order = at::rand({images, pieces_}, generator).argsort(true, kPieces, false);
    const at::Tensor place = order.argsort(true, kPieces, false);
    const at::Tensor grid = place.lt(shown_).view({images, 1, side_, side_});
    const auto piece_of = [this](std::int64_t pixels) {
      return at::arange(pixels, at::kLong).mul_(side_).floor_divide_(pixels);
    };
    return grid.index_select(2, piece_of(height)).index_select(3, piece_of(width));
  }

  double alpha_;
  double test_alpha_;
  double cover_rate_;
  std::int64_t pieces_;
  std::int64_t side_;   // pieces along each side of the grid
  std::int64_t shown_;  // pieces that a training image shows
  backstop::pattern::Pattern pattern_;
};

}  // namespace

BACKSTOP_PLUGIN(Attack, AdaptiveBlend)
