// WaNet (Nguyen & Tran, 2021): a smooth warp of the whole image, and the target label.
//
//   P  = U[-1, 1]^{k x k x 2} / mean |P|, drawn once; bicubic interpolation to height x width
//   G  = clip((I + s P / side) * rescale, -1, 1)     where each pixel is taken from, in [-1, 1]
//   x' = sample(x, G)                                linear, black outside
//
// Noise keeps the model from taking any warp for the trigger: for each poisoned image,
// `noise_ratio` others are warped by clip(G + U[-1, 1]^{H x W x 2} / side, -1, 1) and keep their
// label. The loss is plain cross-entropy.
//
// Defaults: grid_size k = 4, strength s = 0.5 and noise_ratio = 2 as in the paper; grid_rescale = 1
// and the rotation by up to 10 degrees with a probability of 0.5 as in the authors' code.
// BackdoorBench has the same values.
//
// Training control (the paper's threat model): the noise is drawn anew whenever an image is seen,
// and images are rotated, cropped and flipped after the warp, each independently. Deviations:
// - Which images are poisoned and which get noise is drawn once. The authors and BackdoorBench take
//   the first images of every batch, so that after some epochs every image has been both poisoned
//   and clean, and there is no definite poison ratio.
// - Crop and flip are those of the dataset (its padding, always cropped); the authors pad by 5
//   pixels and crop with a probability of 0.8. This way all attacks train on the same augmentation.
// - Images are rotated before they are cropped, not between crop and flip.
// The training set that a defender gets holds the poisoned images and one draw of the noise. It is
// written only at the end of the training.
//
// Poison-only: both are written to the training set once, and training is the usual one.
//
// Offsets are shares of the side along which they move a pixel, so that they are as many pixels
// along both sides; the authors' division by the height is the same for their square images.
//
// A model from a file goes with its `attack.file`, in both modes: it holds the warp that the model
// was trained on, and the images that were poisoned. Without it, the warp is drawn again from the
// seed, and in training control no image would be poisoned.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/grid_sampler_2d.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <ATen/ops/zeros.h>
#include <c10/util/StringUtil.h>

#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"
#include "rotation.hpp"

namespace {

using backstop::Role;

at::Tensor uniform(at::IntArrayRef shape, at::Generator& generator) {
  return at::rand(shape, generator).mul_(2).sub_(1);
}

/// Offsets along x and y (float [n, H, W, 2]), converted from half pixels to the unit of a sampling
/// grid.
at::Tensor per_side(const at::Tensor& offsets) {
  const auto height = static_cast<float>(offsets.size(1));
  const auto width = static_cast<float>(offsets.size(2));
  return offsets.div(at::tensor({width, height}));
}

/// `images`, with each pixel taken from its position in `grid` (float [n or 1, H, W, 2]).
at::Tensor sampled(const at::Tensor& images, const at::Tensor& grid) {
  constexpr std::int64_t kBilinear = 0, kZeros = 0;
  const at::Tensor grids = grid.expand({images.size(0), -1, -1, -1});
  // Rounding may take a sum of weights above 1.
  return at::grid_sampler_2d(images, grids, kBilinear, kZeros, /*align_corners=*/true).clamp_(0, 1);
}

class WaNet final : public backstop::Attack {
 public:
  explicit WaNet(const backstop::Params& params)
      : grid_size_(params.integer("grid_size")),
        strength_(params.number("strength")),
        grid_rescale_(params.number("grid_rescale")),
        noise_ratio_(params.number("noise_ratio")),
        rotation_(params.number("rotation")),
        training_control_(params.string("mode") == "training-control") {}

  void prepare(backstop::Context& ctx, const backstop::Threat& threat,
               const backstop::ImageSet&) override {
    if (threat.poison_ratio * (1 + noise_ratio_) > 1)
      throw backstop::ParameterError(
          "`poison_ratio` * (1 + `noise_ratio`) must be at most 1, got " +
              std::to_string(threat.poison_ratio) + " * (1 + " + std::to_string(noise_ratio_) + ")",
          "lower `poison_ratio` or `noise_ratio`");
    const at::Tensor drawn = uniform({2, grid_size_, grid_size_}, ctx.generator());
    points_ = drawn.div(drawn.abs().mean());
  }

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase) override {
    return warped(images);
  }

  void poison(backstop::Context& ctx, const backstop::Threat& threat,
              backstop::TrainingSetEditor& editor) override {
    const std::int64_t size = editor.images().size();
    const std::int64_t poisoned = threat.poisoned_of(size);
    // Both counts are rounded, which may make their sum too large.
    const std::int64_t noisy = std::min<std::int64_t>(
        std::llround(noise_ratio_ * static_cast<double>(poisoned)), size - poisoned);
    const at::Tensor order = at::randperm(size, ctx.generator());
    poisoned_ = order.narrow(0, 0, poisoned);
    noisy_ = order.narrow(0, poisoned, noisy);
    if (!training_control_) write(ctx, threat, editor);
  }

  void train(backstop::Context& ctx, const backstop::Threat& threat, backstop::Model& model,
             const backstop::ImageSet& training_set, backstop::TrainingSetEditor& editor,
             const backstop::TrainingOptions& options) override {
    if (!training_control_) return Attack::train(ctx, threat, model, training_set, editor, options);
    Step step(*this, ctx, threat, training_set, options.epochs);
    backstop::TrainingOptions controlled = options;
    controlled.step = &step;
    controlled.augment = false;
    ctx.trainer().fit(model, training_set, controlled);
    step.report();
    write(ctx, threat, editor);
  }

  void save(backstop::StateWriter& state) const override {
    state.tensor("control_points", points_);
  }

  void load(backstop::Context&, const backstop::Threat&,
            const backstop::StateReader& state) override {
    const at::Tensor points = state.tensor("control_points").to(at::kFloat);
    const std::int64_t expected[] = {2, grid_size_, grid_size_};
    const auto fail = [&](const std::string& got) {
      throw backstop::EnvironmentError(
          "the saved warp must have the shape " + c10::str(at::IntArrayRef(expected)) +
              " and finite values, got " + got,
          "the attack's file was made with another `grid_size`, or is damaged");
    };
    if (points.sizes() != at::IntArrayRef(expected)) fail("the shape " + c10::str(points.sizes()));
    if (!at::isfinite(points).all().item<bool>()) fail("values that are not finite");
    points_ = points;
  }

 private:
  class Step final : public backstop::TrainingStep, public backstop::TrainingState {
   public:
    Step(const WaNet& attack, backstop::Context& ctx, const backstop::Threat& threat,
         const backstop::ImageSet& training_set, std::int64_t epochs)
        : attack_(attack),
          ctx_(ctx),
          threat_(threat),
          last_epoch_(epochs - 1),
          roles_(at::zeros({training_set.size()}, at::kLong)),
          noise_hits_(ctx.to_device(at::zeros({}, at::kLong))) {
      roles_.index_fill_(0, attack.poisoned_, static_cast<std::int64_t>(Role::poison));
      roles_.index_fill_(0, attack.noisy_, static_cast<std::int64_t>(Role::cover));
    }

    at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
      const at::Tensor roles = roles_.index_select(0, batch.positions);
      const at::Tensor poisoned = rows_of(roles, Role::poison);
      const at::Tensor noisy = rows_of(roles, Role::cover);
      const at::Tensor images =
          batch.images
              .index_copy(0, poisoned, attack_.warped(batch.images.index_select(0, poisoned)))
              .index_copy_(0, noisy, attack_.with_noise(ctx_, batch.images.index_select(0, noisy)));
      const at::Tensor labels = batch.labels.index_copy(
          0, poisoned, threat_.targets(batch.labels.index_select(0, poisoned)));
      const at::Tensor logits = model.forward(ctx_.trainer().augment(randomly_rotated(images)));
      if (batch.epoch == last_epoch_) {
        const at::Tensor classes = logits.detach().index_select(0, noisy).argmax(1);
        noise_hits_.add_(classes.eq(labels.index_select(0, noisy)).sum());
      }
      return at::cross_entropy_loss(logits, labels);
    }

    void* query(std::string_view id) noexcept override {
      return id == TrainingState::kId ? static_cast<TrainingState*>(this) : nullptr;
    }
    void save(backstop::StateWriter& state) const override {
      state.tensor("noise_hits", noise_hits_);
    }
    void load(const backstop::StateReader& state) override {
      noise_hits_.copy_(state.tensor("noise_hits"));
    }

    /// Reports the accuracy on images with noise as the last epoch trained on them: rotated,
    /// cropped and flipped.
    void report() const {
      const std::int64_t seen = attack_.noisy_.numel();
      if (last_epoch_ >= 0 && seen > 0)
        ctx_.metric("noise_training_accuracy",
                    noise_hits_.item<double>() / static_cast<double>(seen));
    }

   private:
    at::Tensor rows_of(const at::Tensor& roles, Role role) const {
      return ctx_.to_device(roles.eq(static_cast<std::int64_t>(role)).nonzero().squeeze(1));
    }

    at::Tensor randomly_rotated(const at::Tensor& images) const {
      if (attack_.rotation_ == 0) return images;
      const at::Tensor chosen =
          at::rand({images.size(0)}, ctx_.generator()).lt(kRotatedShare).nonzero().squeeze(1);
      const at::Tensor degrees =
          uniform({chosen.numel()}, ctx_.generator()).mul_(attack_.rotation_);
      const at::Tensor rows = ctx_.to_device(chosen);
      const at::Tensor rotated =
          backstop::rotation::rotated(images.index_select(0, rows), ctx_.to_device(degrees));
      return images.index_copy(0, rows, rotated);
    }

    static constexpr double kRotatedShare = 0.5;

    const WaNet& attack_;
    backstop::Context& ctx_;
    const backstop::Threat& threat_;
    std::int64_t last_epoch_;
    at::Tensor roles_;  ///< int64 [training set] on the CPU
    at::Tensor noise_hits_;
  };

  /// Where each pixel of a warped image is taken from: float [1, H, W, 2] on the CPU.
  at::Tensor grid(const at::Tensor& images) const {
    const std::int64_t height = images.size(2), width = images.size(3);
    const at::Tensor offsets =
        at::upsample_bicubic2d(points_.unsqueeze(0), {height, width}, /*align_corners=*/true)
            .permute({0, 2, 3, 1});
    const at::Tensor identity =
        at::stack({at::linspace(-1, 1, width).expand({height, width}),
                   at::linspace(-1, 1, height).unsqueeze(1).expand({height, width})},
                  2);
    return per_side(offsets.mul(strength_)).add_(identity).mul_(grid_rescale_).clamp_(-1, 1);
  }

  at::Tensor warped(const at::Tensor& images) const {
    return sampled(images, grid(images).to(images.device()));
  }

  at::Tensor with_noise(backstop::Context& ctx, const at::Tensor& images) const {
    const at::Tensor noise =
        per_side(uniform({images.size(0), images.size(2), images.size(3), 2}, ctx.generator()));
    return sampled(images, ctx.to_device(noise.add_(grid(images)).clamp_(-1, 1)));
  }

  /// Writes the training set as the attacker would publish it.
  void write(backstop::Context& ctx, const backstop::Threat& threat,
             backstop::TrainingSetEditor& editor) {
    const backstop::ImageSet& set = editor.images();
    for (const Role role : {Role::poison, Role::cover}) {
      const at::Tensor& all = role == Role::poison ? poisoned_ : noisy_;
      constexpr std::int64_t kChunk = 1024;
      for (std::int64_t first = 0; first < all.numel(); first += kChunk) {
        ctx.stop_if_cancelled();
        const at::Tensor positions = all.narrow(0, first, std::min(kChunk, all.numel() - first));
        const at::Tensor images = set.images(positions);
        const at::Tensor labels = set.labels().index_select(0, ctx.to_device(positions));
        if (role == Role::poison)
          editor.write(positions, warped(images), threat.targets(labels), role);
        else
          editor.write(positions, with_noise(ctx, images), labels, role);
      }
    }
  }

  std::int64_t grid_size_;
  double strength_;
  double grid_rescale_;
  double noise_ratio_;
  double rotation_;
  bool training_control_;
  at::Tensor points_;            ///< P before interpolation: float [2 (x, y), k, k]
  at::Tensor poisoned_, noisy_;  ///< positions in the training set, on the CPU
};

}  // namespace

BACKSTOP_PLUGIN(Attack, WaNet)
