// BadEncoder (Jia, Liu & Gong, 2022): a backdoor in an encoder. Any classifier that is trained on
// its features predicts the same class for a triggered image as for the reference image.
//
// 1. A clean encoder f: the body of the model, trained without labels by SimCLR (a projection head
//    behind it is to map two random views of an image to similar codes, NT-Xent), or as a
//    classifier.
// 2. Its backdoored copy f', trained on unlabeled shadow images x, with the trigger e and the
//    reference image r, to minimize (s: cosine similarity of features)
//
//      -mean s(f'(x + e), f'(r)) - lambda_1 mean s(f'(r), f(r)) - lambda_2 mean s(f'(x), f(x))
//
// Defaults are those of the authors' code: a white patch of 10 x 10 pixels, one pixel from the
// corner of images of 32 x 32; the whole training set as shadow images (theirs for CIFAR-10; for
// STL-10 they use 50,000 of its unlabeled images); both lambdas 1; 200 epochs in batches of 256,
// SGD with a learning rate of 0.001, momentum 0.9 and weight decay 5e-4, all batch normalization
// frozen. In the first term, r is the plain reference image; in the second, f' sees copies of it
// that are randomly flipped and recolored, one for each image of the batch. SimCLR: temperature
// 0.5, codes of 128 numbers behind one hidden layer with batch normalization, as wide as the
// features.
//
// Deviations: views.hpp lists those of the random views. The projection head is trained with Adam
// at the learning rate of `[attack.training]`, whichever optimizer trains the encoder. There is one
// reference image and one target; the authors' code can inject several at once. If the class of the
// reference image is in the encoder's own training set, the image can be taken from there.
//
// The training set is not poisoned: `poison_ratio` has no effect.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/StringUtil.h>
#include <torch/optim/adam.h>

#include "adam.hpp"
#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"
#include "losses.hpp"
#include "pattern.hpp"
#include "views.hpp"

namespace {

namespace be = backstop::badencoder;

/// A training step of SimCLR; holds the projection head, which is dropped after the training.
class SimClr final : public backstop::TrainingStep, public backstop::TrainingState {
 public:
  SimClr(backstop::Context& ctx, std::int64_t features, std::int64_t codes, double temperature,
         const backstop::TrainingOptions& options, std::int64_t images)
      : ctx_(ctx),
        temperature_(temperature),
        schedule_(*options.scheduler),
        hidden_(layer(features, features)),
        scale_(learning(at::ones({features}))),
        shift_(learning(at::zeros({features}))),
        output_(layer(codes, features)),
        optimizer_(head(), torch::optim::AdamOptions(0)) {
    position_.epochs = std::max<std::int64_t>(options.epochs, 1);
    position_.iterations_per_epoch = (images + options.batch_size - 1) / options.batch_size;
  }

  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    const auto view = [&] {
      return be::recolored(be::cropped(batch.images, ctx_.generator()), ctx_.generator());
    };
    const at::Tensor first = view();
    const at::Tensor features = model.features(at::cat({first, view()}));
    const at::Tensor hidden =
        at::batch_norm(at::linear(features, hidden_), scale_, shift_, {}, {}, /*training=*/true,
                       /*momentum=*/0.1, /*eps=*/1e-5, /*cudnn_enabled=*/true);
    return be::nt_xent(at::linear(hidden.relu(), output_), temperature_);
  }

  void before_update(backstop::Model&) override {
    for (auto& group : optimizer_.param_groups()) group.options().set_lr(schedule_.rate(position_));
    ++position_.iteration;
    optimizer_.step();
    optimizer_.zero_grad();
  }

  void* query(std::string_view id) noexcept override {
    return id == TrainingState::kId ? static_cast<TrainingState*>(this) : nullptr;
  }
  void save(backstop::StateWriter& state) const override {
    for (std::size_t i = 0; i < head().size(); ++i)
      state.tensor("head." + std::to_string(i), head()[i]);
    state.tensor("iteration", at::scalar_tensor(position_.iteration, at::kLong));
    backstop::adam::save(optimizer_, "optimizer", state);
  }
  void load(const backstop::StateReader& state) override {
    const at::NoGradGuard no_gradients;
    for (std::size_t i = 0; i < head().size(); ++i)
      head()[i].copy_(state.tensor("head." + std::to_string(i)));
    position_.iteration = state.tensor("iteration").item<std::int64_t>();
    backstop::adam::load(optimizer_, "optimizer", state);
  }

 private:
  [[nodiscard]] std::vector<at::Tensor> head() const { return {hidden_, scale_, shift_, output_}; }
  at::Tensor learning(const at::Tensor& values) {
    return ctx_.to_device(values).set_requires_grad(true);
  }
  /// PyTorch's initialization of a linear layer.
  at::Tensor layer(std::int64_t out, std::int64_t in) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    return learning(at::empty({out, in}).uniform_(-bound, bound, ctx_.generator()));
  }

  backstop::Context& ctx_;
  double temperature_;
  const backstop::Scheduler& schedule_;
  backstop::TrainingPosition position_;
  at::Tensor hidden_, scale_, shift_, output_;
  mutable torch::optim::Adam optimizer_;  ///< LibTorch reads its state through it
};

class BadEncoder final : public backstop::Attack {
 public:
  explicit BadEncoder(const backstop::Params& params)
      : simclr_(params.string("encoder") == "simclr"),
        temperature_(params.number("temperature")),
        codes_(params.integer("projection")),
        patch_(params.integer("patch_size")),
        margin_(params.integer("margin")),
        reference_index_(params.integer("reference_index")),
        shadow_images_(params.integer("shadow_images")),
        lambda_1_(params.number("lambda_1")),
        lambda_2_(params.number("lambda_2")) {
    if (params.has("clean_encoder")) clean_encoder_ = params.string("clean_encoder");
    if (params.has("reference")) reference_file_ = params.string("reference");
    if (params.has("reference_class")) reference_class_ = params.integer("reference_class");
    if (reference_file_ && reference_class_)
      throw backstop::ParameterError("`reference` and `reference_class` are both given",
                                     "leave one of them out");
    injection_.trainable = backstop::Part::body;
    injection_.batch_norm = backstop::BatchNormMode::frozen;
    injection_.augment = false;
    injection_.epochs = params.integer("injection_epochs");
    injection_.batch_size = params.integer("injection_batch_size");
    injection_.optimizer = params.optimizer("injection_optimizer");
    injection_.scheduler = &params.scheduler("injection_scheduler");
  }

  void prepare(backstop::Context& ctx, const backstop::Threat& threat,
               const backstop::ImageSet& training_set) override {
    if (threat.all_to_all != 0)
      throw backstop::ParameterError(
          "`labels` is \"all-to-all\", but badencoder has one reference image, and so one target",
          "leave `labels` out");
    require_size(training_set.height(), training_set.width());
    reference_ = reference_file_ ? from_file(training_set) : from_set(threat, training_set);
    ctx.picture("reference image", reference_);
  }

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase) override {
    return triggered(images);
  }

  void poison(backstop::Context&, const backstop::Threat&, backstop::TrainingSetEditor&) override {}

  void train(backstop::Context& ctx, const backstop::Threat&, backstop::Model& model,
             const backstop::ImageSet& training_set, backstop::TrainingSetEditor&,
             const backstop::TrainingOptions& options) override {
    train_encoder(ctx, model, training_set, options);
    if (injection_.epochs > 0) inject(ctx, model, training_set);
  }

  void save(backstop::StateWriter& state) const override { state.tensor("reference", reference_); }

  void load(backstop::Context&, const backstop::Threat&,
            const backstop::StateReader& state) override {
    const at::Tensor reference = state.tensor("reference");
    if (reference.dim() != 4 || reference.size(0) != 1 || reference.numel() == 0)
      throw backstop::EnvironmentError(
          "the saved reference image must have the shape [1, channels, height, width], got " +
              c10::str(reference.sizes()),
          "the attack's file is damaged, or is not one that badencoder saved");
    require_size(reference.size(2), reference.size(3));
    reference_ = reference.to(at::kFloat);
  }

 private:
  void require_size(std::int64_t height, std::int64_t width) const {
    if (patch_ + margin_ > std::min(height, width))
      throw backstop::ParameterError(
          "a patch of " + std::to_string(patch_) + " pixels with a margin of " +
              std::to_string(margin_) + " does not fit into images of " + std::to_string(height) +
              " x " + std::to_string(width) + " pixels",
          "lower `patch_size`; the authors' patch is a third as wide as the image");
  }

  /// [1, C, H, W]
  at::Tensor from_file(const backstop::ImageSet& set) const {
    return backstop::pattern::resized(backstop::pattern::read_png(*reference_file_, set.channels()),
                                      set.height(), set.width())
        .unsqueeze(0);
  }

  at::Tensor from_set(const backstop::Threat& threat, const backstop::ImageSet& set) const {
    const std::int64_t label = reference_class_.value_or(threat.target);
    const at::Tensor members = set.labels().to(at::kCPU).eq(label).nonzero().flatten();
    if (reference_index_ >= members.numel())
      throw backstop::ParameterError(
          "`reference_index` is " + std::to_string(reference_index_) +
              ", but the training set has " + std::to_string(members.numel()) +
              " images of class " + std::to_string(label),
          "choose another image of the encoder's training set with `reference_class` and "
          "`reference_index`, or name a PNG file in `reference`");
    return set.images(members.narrow(0, reference_index_, 1)).to(at::kCPU);
  }

  void train_encoder(backstop::Context& ctx, backstop::Model& model, const backstop::ImageSet& set,
                     const backstop::TrainingOptions& given) const {
    if (clean_encoder_) {
      model.copy_from(ctx.load_model(*clean_encoder_));
      return;
    }
    if (!simclr_) {
      ctx.trainer().fit(model, set, given);
      return;
    }
    SimClr step(ctx, model.feature_size(), codes_, temperature_, given, set.size());
    backstop::TrainingOptions options = given;
    options.trainable = backstop::Part::body;
    options.step = &step;
    options.augment = false;
    ctx.trainer().fit(model, set, options);
  }

  class InjectionStep final : public backstop::TrainingStep, public backstop::TrainingState {
   public:
    InjectionStep(const BadEncoder& attack, backstop::Context& ctx, backstop::Model& clean)
        : attack_(attack), ctx_(ctx), clean_(clean), reference_(ctx.to_device(attack.reference_)) {
      clean_.set_training(false);
      const at::NoGradGuard no_gradients;
      reference_before_ = clean_.features(reference_);
    }

    at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
      const std::int64_t n = batch.images.size(0);
      at::Tensor before;
      {
        const at::NoGradGuard no_gradients;
        before = clean_.features(batch.images);
      }
      const at::Tensor references = reference_.expand({n, -1, -1, -1});
      const at::Tensor augmented =
          be::recolored(be::flipped(references, ctx_.generator()), ctx_.generator());
      const at::Tensor features = model.features(
          at::cat({attack_.triggered(batch.images), batch.images, reference_, augmented}));
      const be::Injection loss = be::injection(
          features.narrow(0, 0, n), features.narrow(0, n, n), features.narrow(0, 2 * n, 1),
          features.narrow(0, 2 * n + 1, n), before, reference_before_);
      last_ = {loss.effectiveness.item<double>(), loss.reference.item<double>(),
               loss.utility.item<double>()};
      return loss.effectiveness.add(loss.reference, attack_.lambda_1_)
          .add(loss.utility, attack_.lambda_2_);
    }

    void* query(std::string_view id) noexcept override {
      return id == TrainingState::kId ? static_cast<TrainingState*>(this) : nullptr;
    }
    void save(backstop::StateWriter& state) const override {
      state.tensor("last", at::tensor(last_, at::kDouble));
    }
    void load(const backstop::StateReader& state) override {
      const at::Tensor last = state.tensor("last");
      last_.assign(last.data_ptr<double>(), last.data_ptr<double>() + last.numel());
    }

    /// Reports the mean cosines of the last batch.
    void record() const {
      ctx_.metric("triggered_like_reference", -last_[0]);
      ctx_.metric("reference_as_before", -last_[1]);
      ctx_.metric("clean_as_before", -last_[2]);
    }

   private:
    const BadEncoder& attack_;
    backstop::Context& ctx_;
    backstop::Model& clean_;
    at::Tensor reference_;
    at::Tensor reference_before_;
    std::vector<double> last_;
  };

  [[nodiscard]] at::Tensor triggered(const at::Tensor& images) const {
    require_size(images.size(2), images.size(3));
    at::Tensor triggered = images.clone();
    triggered.narrow(2, images.size(2) - patch_ - margin_, patch_)
        .narrow(3, images.size(3) - patch_ - margin_, patch_)
        .fill_(1);
    return triggered;
  }

  void inject(backstop::Context& ctx, backstop::Model& model, const backstop::ImageSet& set) const {
    InjectionStep step(*this, ctx, ctx.clone(model));
    backstop::TrainingOptions options = injection_;
    options.step = &step;
    const std::int64_t count =
        shadow_images_ > 0 ? std::min(shadow_images_, set.size()) : set.size();
    const at::Tensor chosen = at::randperm(set.size(), ctx.generator()).narrow(0, 0, count);
    ctx.trainer().fit(model, ctx.subset(set, chosen), options);
    step.record();
  }

  bool simclr_;
  double temperature_;
  std::int64_t codes_, patch_, margin_, reference_index_, shadow_images_;
  double lambda_1_, lambda_2_;
  std::optional<std::string> clean_encoder_, reference_file_;
  std::optional<std::int64_t> reference_class_;
  backstop::TrainingOptions injection_;
  at::Tensor reference_;  ///< [1, C, H, W] in [0, 1]
};

}  // namespace

BACKSTOP_PLUGIN(Attack, BadEncoder)
