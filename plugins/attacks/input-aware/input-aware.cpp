// Input-aware dynamic backdoor (Nguyen and Tran, 2020): every image has its own trigger, and an
// image with another image's trigger keeps its label.
//
//   x' = x + (G(x) - x) * m(x),  m(x) = squashed(20 * M(x) - 10)
//
// The pattern network G (C output channels) and the mask network M (one) are described in
// hourglass.hpp. In the paper, x and G(x) are normalized; since normalization is affine in each
// channel and the mask is the same for all channels, this is the same formula on pixels.
//
// First M is trained alone and then frozen (d: root mean square difference of two images):
//
//   lambda_norm * mean(ReLU(m - mask_density)) + lambda_div * mean(d(x1, x2) / (d(m1, m2) + 1e-7))
//
// Then the classifier and G are trained together, on batches of poisoned images (target label),
// cross images (another image's trigger, true label) and clean images:
//
//   cross-entropy + lambda_div * mean(d(x1, x2) / (d(G(x1), G(x2)) + 1e-7))
//
// Defaults are those of the authors' code: Adam with a learning rate of 0.01 and betas of 0.5 and
// 0.9 for both networks; 25 epochs for the masks, whose learning rate is divided by 10 after 10 and
// 20 epochs (here after two and four fifths of any number of epochs); images are cropped, flipped
// and rotated by up to 10 degrees before they get a trigger. The recipe's `poison_ratio` and
// `[attack.training]` apply to the training of the classifier.
//
// Deviations from the authors' code:
// * Poisoned and cross images are drawn once; there they are the first images of each batch.
// * G's gradients are those of one step; there they accumulate over the whole training
//   (`accumulate_generator_gradients`).
// * G's learning rate follows the classifier's schedule, with its peak at `generator_rate`. There
//   both fall in steps, first after 100 (classifier) and 200 epochs (G). If G's stayed while the
//   classifier's fell to 0, the triggers would move away from what the classifier has learned.
// * Distances are in pixels. There they are in standard deviations of the dataset's channels, which
//   for CIFAR-10 makes the diversity of the masks count about four times as much (for GTSRB as much
//   as here). lambda_div is not squared for the masks.
// * Both networks get 2 x - 1 as input; there they get images normalized for the dataset. Their
//   convolutions have no bias, which the batch normalization after them would cancel.
// * Masks are compared within a batch, not with a second batch. G's batch normalization sees
//   poisoned images and their partners together.
//
// A model from a file goes with its `attack.file`: the networks are trained along with the model,
// and poisoned images are written to the training set only at the end of that training. Without the
// file, the trigger would be that of an untrained network, and no image would be poisoned.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/adam.h>

#include "adam.hpp"
#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"
#include "hourglass.hpp"
#include "losses.hpp"
#include "rotation.hpp"

namespace {

// Images that go through both networks at once when nothing is being trained.
constexpr std::int64_t kChunk = 128;
constexpr double kMaskRate = 0.01;

using Mode = Hourglass::Mode;

torch::optim::Adam adam(const Hourglass& network, double rate) {
  return torch::optim::Adam(network.parameters(),
                            torch::optim::AdamOptions(rate).betas({0.5, 0.9}));
}

void drop_gradients(const Hourglass& network) {
  for (at::Tensor& parameter : network.parameters()) parameter.mutable_grad().reset();
}

void save_network(const Hourglass& network, backstop::StateWriter& state) {
  for (const auto& [name, tensor] : network.state()) state.tensor(name, tensor);
}

void load_network(const Hourglass& network, const backstop::StateReader& state) {
  for (const auto& [name, tensor] : network.state()) tensor.copy_(state.tensor(name));
}

/// The training of the mask network.
struct MaskTraining final : backstop::TrainingState {
  explicit MaskTraining(Hourglass& masks) : network(masks), optimizer(adam(masks, kMaskRate)) {}
  void save(backstop::StateWriter& state) const override {
    save_network(network, state);
    backstop::adam::save(optimizer, "optimizer", state);
  }
  void load(const backstop::StateReader& state) override {
    load_network(network, state);
    backstop::adam::load(optimizer, "optimizer", state);
  }

  Hourglass& network;
  mutable torch::optim::Adam optimizer;  ///< LibTorch reads its state through it
};

/// The type of the model's activations.
at::ScalarType precision_of(backstop::Model& model, const backstop::ImageSet& set) {
  struct Sink final : backstop::ActivationSink {
    at::Tensor activation(std::string_view, const at::Tensor& map) override {
      type = map.scalar_type();
      return map;
    }
    at::ScalarType type = at::kFloat;
  } sink;
  const at::NoGradGuard no_gradients;
  const bool was_training = model.training();
  model.set_training(false);
  model.observe(set.images(at::zeros({1}, at::kLong)), sink);
  model.set_training(was_training);
  return sink.type;
}

/// For each of `positions`, another position in a set of `size` images, drawn uniformly; the same
/// one if there is no other.
at::Tensor others(const at::Tensor& positions, std::int64_t size, at::Generator& generator) {
  return at::randint(std::max<std::int64_t>(size - 1, 1), positions.sizes(), generator,
                     at::TensorOptions(at::kLong))
      .add(positions)
      .add(1)
      .remainder(size);
}

class InputAware final : public backstop::Attack {
 public:
  explicit InputAware(const backstop::Params& params)
      : width_(params.integer("channels")),
        levels_(params.integer("levels")),
        mask_epochs_(params.integer("mask_epochs")),
        mask_images_(params.integer("mask_images")),
        mask_density_(params.number("mask_density")),
        lambda_norm_(params.number("lambda_norm")),
        lambda_div_(params.number("lambda_div")),
        cross_ratio_(params.number("cross_ratio")),
        rotation_(params.number("rotation")),
        generator_rate_(params.number("generator_rate")),
        accumulate_(params.boolean("accumulate_generator_gradients")) {}

  void prepare(backstop::Context& ctx, const backstop::Threat&,
               const backstop::ImageSet& training_set) override {
    require_size(training_set.height(), training_set.width());
    make_networks(training_set.channels());
    pattern_->draw(ctx.generator());
    mask_->draw(ctx.generator());
    to_device(ctx);
  }

  at::Tensor apply(backstop::Context& ctx, const at::Tensor& images, backstop::Phase) override {
    if (images.size(1) != channels_)
      throw backstop::ParameterError(
          "the pattern network makes " + std::to_string(channels_) +
              " channels, but the images have " + std::to_string(images.size(1)),
          "use images with as many channels as those that the networks were trained on");
    require_size(images.size(2), images.size(3));
    at::Tensor triggered = at::empty_like(images);
    for (std::int64_t first = 0; first < images.size(0); first += kChunk) {
      ctx.stop_if_cancelled();
      const at::Tensor chunk = images.narrow(0, first, std::min(kChunk, images.size(0) - first));
      triggered.narrow(0, first, chunk.size(0)).copy_(trigger(chunk).on(chunk));
    }
    return triggered;
  }

  /// Only draws which images will be poisoned: their triggers do not exist before train(), which
  /// writes them.
  void poison(backstop::Context& ctx, const backstop::Threat& threat,
              backstop::TrainingSetEditor& editor) override {
    const std::int64_t size = editor.images().size();
    const std::int64_t poisoned = threat.poisoned_of(size);
    const std::int64_t crossed = std::min<std::int64_t>(
        std::llround(cross_ratio_ * static_cast<double>(poisoned)), size - poisoned);
    const at::Tensor order = at::randperm(size, ctx.generator());
    poisoned_ = order.narrow(0, 0, poisoned);
    crossed_ = order.narrow(0, poisoned, crossed);
  }

  void train(backstop::Context& ctx, const backstop::Threat& threat, backstop::Model& model,
             const backstop::ImageSet& training_set, backstop::TrainingSetEditor& editor,
             const backstop::TrainingOptions& options) override {
    const at::ScalarType precision = precision_of(model, training_set);
    train_masks(ctx, training_set, options.batch_size, precision);
    JointStep step(*this, ctx, threat, training_set, options, precision);
    backstop::TrainingOptions joint = options;
    joint.step = &step;
    ctx.trainer().fit(model, training_set, joint);
    if (crossed_.numel() > 0) ctx.metric("cross_accuracy", step.cross_accuracy());
    write(ctx, threat, editor);
  }

  void save(backstop::StateWriter& state) const override {
    for (const auto& [name, tensor] : named_state()) state.tensor(name, tensor);
  }

  void load(backstop::Context& ctx, const backstop::Threat&,
            const backstop::StateReader& state) override {
    const std::string first = "pattern.0.convolution.weight";
    make_networks(state.has(first) && state.tensor(first).dim() == 4 ? state.tensor(first).size(1)
                                                                     : 1);
    for (const auto& [name, tensor] : named_state()) {
      if (!state.has(name) || state.tensor(name).sizes() != tensor.sizes())
        throw backstop::EnvironmentError(
            "the saved networks must have " + std::to_string(width_) + " channels and " +
                std::to_string(levels_) + " levels, but `" + name + "` does not fit",
            "the attack's file was made with other `channels` or `levels`, or is damaged");
      tensor.copy_(state.tensor(name));
    }
    to_device(ctx);
  }

 private:
  struct Trigger {
    at::Tensor pattern;  ///< [n, C, H, W]
    at::Tensor mask;     ///< [n, 1, H, W]
    /// The images with this trigger: exactly the image where the mask is 0, exactly the pattern
    /// where it is 1.
    [[nodiscard]] at::Tensor on(const at::Tensor& images) const {
      return images.lerp(pattern, mask);
    }
    [[nodiscard]] Trigger narrow(std::int64_t first, std::int64_t count) const {
      return {pattern.narrow(0, first, count), mask.narrow(0, first, count)};
    }
  };

  /// Trains the classifier and the pattern network together.
  class JointStep final : public backstop::TrainingStep, public backstop::TrainingState {
   public:
    JointStep(InputAware& attack, backstop::Context& ctx, const backstop::Threat& threat,
              const backstop::ImageSet& set, const backstop::TrainingOptions& options,
              at::ScalarType precision)
        : attack_(attack),
          ctx_(ctx),
          threat_(threat),
          set_(set),
          precision_(precision),
          roles_(at::zeros({set.size()}, at::kLong)),
          schedule_(*options.scheduler),
          optimizer_(adam(*attack.pattern_, attack.generator_rate_)) {
      roles_.index_fill_(0, attack.poisoned_, kPoisoned);
      roles_.index_fill_(0, attack.crossed_, kCrossed);
      position_.epochs = std::max<std::int64_t>(options.epochs, 1);
      position_.iterations_per_epoch = (set.size() + options.batch_size - 1) / options.batch_size;
      for (backstop::TrainingPosition p = position_; p.iteration < p.total_iterations();
           ++p.iteration)
        peak_ = std::max(peak_, schedule_.rate(p));
    }

    at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
      if (!attack_.accumulate_) drop_gradients(*attack_.pattern_);
      const at::Tensor roles = roles_.index_select(0, batch.positions);
      const auto rows_of = [&](std::int64_t role) { return roles.eq(role).nonzero().flatten(); };
      const at::Tensor clean = rows_of(kClean), poisoned = rows_of(kPoisoned),
                       crossed = rows_of(kCrossed);
      const std::int64_t poisons = poisoned.numel(), crosses = crossed.numel();
      const at::Tensor images = attack_.randomly_rotated(ctx_, batch.images);
      const auto at_rows = [&](const at::Tensor& values, const at::Tensor& rows) {
        return values.index_select(0, ctx_.to_device(rows));
      };

      std::vector<at::Tensor> parts = {at_rows(images, clean)};
      at::Tensor diversity;
      // A cross image gets the trigger of its partner; a poisoned image's pattern is to differ from
      // that of its partner.
      const std::int64_t pairs = std::max(poisons, crosses);
      if (pairs > 0) {
        const at::Tensor partners = attack_.augmented(
            ctx_, set_,
            others(
                batch.positions.index_select(0, at::cat({crossed, poisoned}).narrow(0, 0, pairs)),
                set_.size(), ctx_.generator()));
        const at::Tensor own = at_rows(images, poisoned);
        const Trigger triggers =
            attack_.trigger(at::cat({own, partners}), Mode::training, precision_);
        parts.push_back(triggers.narrow(0, poisons).on(own));
        parts.push_back(triggers.narrow(poisons, crosses).on(at_rows(images, crossed)));
        if (poisons > 0)
          diversity = diversity_loss(own, partners.narrow(0, 0, poisons),
                                     triggers.pattern.narrow(0, 0, poisons),
                                     triggers.pattern.narrow(0, poisons, poisons));
      }

      const at::Tensor crossed_labels = at_rows(batch.labels, crossed);
      const at::Tensor logits = model.forward(at::cat(parts));
      correct_.push_back(logits.detach()
                             .narrow(0, logits.size(0) - crosses, crosses)
                             .argmax(1)
                             .eq(crossed_labels));
      const at::Tensor loss = at::cross_entropy_loss(
          logits, at::cat({at_rows(batch.labels, clean),
                           threat_.targets(at_rows(batch.labels, poisoned)), crossed_labels}));
      return diversity.defined() ? loss.add(diversity, attack_.lambda_div_) : loss;
    }

    void after_update(backstop::Model&) override {
      const double share = peak_ > 0 ? schedule_.rate(position_) / peak_ : 0;
      for (auto& group : optimizer_.param_groups())
        group.options().set_lr(attack_.generator_rate_ * share);
      optimizer_.step();
      ++position_.iteration;
    }

    backstop::Next after_epoch(backstop::Model&, std::int64_t) override {
      cross_accuracy_ = at::cat(correct_).to(at::kDouble).mean().item<double>();
      correct_.clear();
      return backstop::Next::epoch;
    }

    void* query(std::string_view id) noexcept override {
      return id == TrainingState::kId ? static_cast<TrainingState*>(this) : nullptr;
    }
    void save(backstop::StateWriter& state) const override {
      save_network(*attack_.pattern_, state);
      const auto parameters = attack_.pattern_->parameters();
      for (std::size_t i = 0; attack_.accumulate_ && i < parameters.size(); ++i)
        if (parameters[i].grad().defined())
          state.tensor("gradient." + std::to_string(i), parameters[i].grad());
      backstop::adam::save(optimizer_, "optimizer", state);
      state.tensor("iteration", at::scalar_tensor(position_.iteration, at::kLong));
      if (!correct_.empty()) state.tensor("correct", at::cat(correct_));
      state.tensor("cross_accuracy", at::scalar_tensor(cross_accuracy_, at::kDouble));
    }
    void load(const backstop::StateReader& state) override {
      load_network(*attack_.pattern_, state);
      const auto parameters = attack_.pattern_->parameters();
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        const std::string name = "gradient." + std::to_string(i);
        if (state.has(name))
          parameters[i].mutable_grad() = at::zeros_like(parameters[i]).copy_(state.tensor(name));
      }
      backstop::adam::load(optimizer_, "optimizer", state);
      position_.iteration = state.tensor("iteration").item<std::int64_t>();
      correct_.clear();
      if (state.has("correct")) correct_.push_back(ctx_.to_device(state.tensor("correct")));
      cross_accuracy_ = state.tensor("cross_accuracy").item<double>();
    }

    /// Share of the cross images whose true label the classifier predicted in the last epoch.
    [[nodiscard]] double cross_accuracy() const { return cross_accuracy_; }

   private:
    static constexpr std::int64_t kClean = 0, kPoisoned = 1, kCrossed = 2;

    InputAware& attack_;
    backstop::Context& ctx_;
    const backstop::Threat& threat_;
    const backstop::ImageSet& set_;
    at::ScalarType precision_;
    at::Tensor roles_;                      ///< of the set's images
    const backstop::Scheduler& schedule_;   ///< of the classifier
    backstop::TrainingPosition position_;   ///< of the next step
    double peak_ = 0;                       ///< highest learning rate of the schedule
    mutable torch::optim::Adam optimizer_;  ///< LibTorch reads its state through it
    std::vector<at::Tensor> correct_;  ///< bool, for the cross images seen in this epoch so far
    double cross_accuracy_ = 0;
  };

  void require_size(std::int64_t height, std::int64_t width) const {
    const std::int64_t least = std::int64_t{2} << levels_;
    if (std::min(height, width) >= least) return;
    throw backstop::ParameterError("networks with " + std::to_string(levels_) +
                                       " levels need images of at least " + std::to_string(least) +
                                       " x " + std::to_string(least) + " pixels, got " +
                                       std::to_string(height) + " x " + std::to_string(width),
                                   "lower `levels`, or raise the dataset's `image_size`");
  }

  void make_networks(std::int64_t channels) {
    channels_ = channels;
    pattern_.emplace(channels, channels, width_, levels_);
    mask_.emplace(channels, 1, width_, levels_);
  }

  void to_device(backstop::Context& ctx) {
    for (Hourglass* network : {&*pattern_, &*mask_})
      network->transfer([&](const at::Tensor& tensor) { return ctx.to_device(tensor); });
  }

  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> named_state() const {
    std::vector<std::pair<std::string, at::Tensor>> state;
    for (auto& [name, tensor] : pattern_->state()) state.emplace_back("pattern." + name, tensor);
    for (auto& [name, tensor] : mask_->state()) state.emplace_back("mask." + name, tensor);
    return state;
  }

  /// `images`, each rotated by its own random angle.
  [[nodiscard]] at::Tensor randomly_rotated(backstop::Context& ctx,
                                            const at::Tensor& images) const {
    if (rotation_ == 0) return images;
    const at::Tensor share = at::rand({images.size(0)}, ctx.generator()).mul(2).sub(1);
    return backstop::rotation::rotated(images, ctx.to_device(share.mul(rotation_)));
  }

  /// The set's images at `positions`, cropped, flipped and rotated.
  [[nodiscard]] at::Tensor augmented(backstop::Context& ctx, const backstop::ImageSet& set,
                                     const at::Tensor& positions) const {
    return randomly_rotated(ctx, ctx.trainer().augment(set.images(positions)));
  }

  /// The triggers of `images`; `mode` applies to the pattern network.
  Trigger trigger(const at::Tensor& images, Mode mode, at::ScalarType precision) {
    const at::Tensor pattern = pattern_->forward(images, mode, precision);
    const at::NoGradGuard no_gradients;
    return {pattern, sharpened(mask_->forward(images, Mode::evaluation, precision))};
  }

  /// The triggers of `images` after training.
  Trigger trigger(const at::Tensor& images) {
    const at::NoGradGuard no_gradients;
    return trigger(images, Mode::evaluation, at::kFloat);
  }

  static at::Tensor sharpened(const at::Tensor& masks) { return squashed(masks.mul(20).sub(10)); }

  void train_masks(backstop::Context& ctx, const backstop::ImageSet& set, std::int64_t batch_size,
                   at::ScalarType precision) {
    const c10::AutoGradMode gradients(true);
    MaskTraining training(*mask_);
    torch::optim::Adam& optimizer = training.optimizer;
    backstop::KeptLoop loop(ctx, training);
    const std::int64_t size = mask_images_ > 0 ? std::min(mask_images_, set.size()) : set.size();
    for (std::int64_t epoch = loop.done(); epoch < mask_epochs_; ++epoch) {
      const double rate = kMaskRate * (5 * epoch < 2 * mask_epochs_ ? 1 : 0.1) *
                          (5 * epoch < 4 * mask_epochs_ ? 1 : 0.1);
      for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
      const at::Tensor order = at::randperm(set.size(), ctx.generator());
      for (std::int64_t first = 0; first < size; first += batch_size) {
        ctx.stop_if_cancelled();
        const std::int64_t count = std::min(batch_size, size - first);
        const at::Tensor images = augmented(ctx, set, order.narrow(0, first, count));
        const at::Tensor masks = sharpened(mask_->forward(images, Mode::training, precision));
        drop_gradients(*mask_);
        mask_loss(images, masks, mask_density_, lambda_norm_, lambda_div_).backward();
        optimizer.step();
        ctx.progress(epoch * size + first + count, mask_epochs_ * size, "images for masks");
      }
      loop.advance(epoch + 1, epoch + 1 == mask_epochs_);
    }
  }

  /// Writes the training set that a defender gets, with the final triggers.
  void write(backstop::Context& ctx, const backstop::Threat& threat,
             backstop::TrainingSetEditor& editor) {
    const backstop::ImageSet& set = editor.images();
    const auto in_chunks = [&](const at::Tensor& positions, const auto& write_chunk) {
      for (std::int64_t first = 0; first < positions.numel(); first += kChunk) {
        ctx.stop_if_cancelled();
        const at::Tensor chunk =
            positions.narrow(0, first, std::min(kChunk, positions.numel() - first));
        write_chunk(chunk, set.labels().index_select(0, ctx.to_device(chunk)));
      }
    };
    double shown = 0;
    in_chunks(poisoned_, [&](const at::Tensor& positions, const at::Tensor& labels) {
      const at::Tensor images = set.images(positions);
      const Trigger triggers = trigger(images);
      shown += triggers.mask.mean({1, 2, 3}).sum().item<double>();
      editor.write(positions, triggers.on(images), threat.targets(labels), backstop::Role::poison);
    });
    in_chunks(crossed_, [&](const at::Tensor& positions, const at::Tensor& labels) {
      const at::Tensor partners = set.images(others(positions, set.size(), ctx.generator()));
      editor.write(positions, trigger(partners).on(set.images(positions)), labels,
                   backstop::Role::cover);
    });
    ctx.metric("mask_density", shown / static_cast<double>(poisoned_.numel()));
  }

  std::int64_t width_;
  std::int64_t levels_;
  std::int64_t mask_epochs_;
  std::int64_t mask_images_;
  double mask_density_;
  double lambda_norm_;
  double lambda_div_;
  double cross_ratio_;
  double rotation_;
  double generator_rate_;
  bool accumulate_;

  std::int64_t channels_ = 0;  ///< of the images
  std::optional<Hourglass> pattern_;
  std::optional<Hourglass> mask_;
  at::Tensor poisoned_, crossed_;  ///< positions in the training set
};

}  // namespace

BACKSTOP_PLUGIN(Attack, InputAware)
