// Anti-backdoor learning (Li et al., 2021): train a clean model on poisoned data. A backdoor is
// learned faster than the rest, so poisoned images show by their small loss. From scratch, with the
// cross-entropy l of every image:
//
//   1. isolation_epochs with   "lga":       sign(L - gamma) * L
//                              "flooding":  |L - gamma| + gamma
//      where L is the mean of l over a batch: it stays near gamma, with poisoned images far below
//      it and clean ones above; the images are not augmented
//   2. isolate the isolation_ratio of the training images with the smallest l
//   3. finetuning_epochs on the others with plain cross-entropy
//   4. unlearning_epochs on the isolated images with mean -l
//
// Defaults are those of the authors' code: gamma 0.5 for both losses; 10 and 60 epochs of steps 1
// and 3; SGD with Nesterov momentum 0.9, weight decay 1e-4 and batches of 128; learning rate 0.1,
// a tenth of it in step 3 from epoch 40 on, and 5e-4 in step 4. The exceptions are:
//
//   loss               "lga", which the paper proposes; the authors' code and BackdoorBench default
//                      to "flooding"
//   unlearning_epochs  5, the number in the authors' code, whose loop spends the first epoch on a
//                      test and so ascends for 4
//
// The paper's text isolates for 20 epochs. BackdoorBench isolates and unlearns for 20 epochs each,
// with batches of 256 and learning rates 0.01 in step 1, 0.01 and then 0.001 in step 3, and 1e-4 in
// step 4; its weight decay and Nesterov momentum are those of the authors.
//
// Deviations:
//
//   * The paper writes step 1 for single images (granularity = "image": l in place of L, then the
//     mean). That also holds poisoned images near gamma, along with every other easy image; the
//     authors' code and BackdoorBench use the batch.
//   * The authors' code reads the images of step 1 in the same order in every epoch; here they are
//     shuffled, as in BackdoorBench.
//   * Step 3 has the dataset's crop and flip; the authors also cut out a small random square.
//   * Step 4 has crop and flip too, as in BackdoorBench; the authors' code does not augment it. A
//     crop can cut off part of a trigger at the border.
//   * Neither the paper nor -l bounds step 4: here it ends after the epoch in which the model no
//     longer assigns any isolated image its label.
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/scalar_tensor.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"

namespace {

at::Tensor losses_of(const at::Tensor& logits, const at::Tensor& labels) {
  return at::cross_entropy_loss(logits, labels, {}, at::Reduction::None);
}

/// Step 1: isolation.
class IsolationStep final : public backstop::TrainingStep {
 public:
  IsolationStep(bool flooding, bool by_image, double gamma)
      : flooding_(flooding), by_image_(by_image), gamma_(gamma) {}

  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    at::Tensor losses = losses_of(model.forward(batch.images), batch.labels);
    if (!by_image_) losses = losses.mean();
    const at::Tensor excess = losses.sub(gamma_);
    if (flooding_) return excess.abs().add(gamma_).mean();
    return losses.mul(excess.detach().sign()).mean();
  }
  void* query(std::string_view id) noexcept override { return backstop::stateless(id); }

 private:
  bool flooding_, by_image_;
  double gamma_;
};

/// Step 4: unlearning.
class UnlearningStep final : public backstop::TrainingStep, public backstop::TrainingState {
 public:
  UnlearningStep(backstop::Context& ctx, const backstop::ImageSet& isolated)
      : ctx_(ctx), isolated_(isolated) {}

  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    // The model does not see the batch, so its batch normalization statistics stay as well.
    if (forgotten_) return model.layers().back().weight.sum().mul(0);
    return losses_of(model.forward(batch.images), batch.labels).mean().neg();
  }

  /// Optimizers skip weights that have no gradient; a gradient of zero would still let momentum
  /// move them.
  void before_update(backstop::Model& model) override {
    if (forgotten_) model.layers().back().weight.mutable_grad().reset();
  }

  backstop::Next after_epoch(backstop::Model& model, std::int64_t) override {
    forgotten_ = forgotten_ || ctx_.trainer().accuracy(model, isolated_) == 0;
    return backstop::Next::epoch;
  }

  void* query(std::string_view id) noexcept override {
    return id == TrainingState::kId ? static_cast<TrainingState*>(this) : nullptr;
  }
  void save(backstop::StateWriter& state) const override {
    state.tensor("forgotten", at::scalar_tensor(forgotten_, at::kBool));
  }
  void load(const backstop::StateReader& state) override {
    forgotten_ = state.tensor("forgotten").item<bool>();
  }

 private:
  backstop::Context& ctx_;
  const backstop::ImageSet& isolated_;
  bool forgotten_ = false;
};

class ConstantRate final : public backstop::Scheduler {
 public:
  explicit ConstantRate(double rate) : rate_(rate) {}
  double rate(const backstop::TrainingPosition&) const override { return rate_; }

 private:
  double rate_;
};

class AntiBackdoorLearning final : public backstop::Defense {
 public:
  explicit AntiBackdoorLearning(const backstop::Params& params)
      : flooding_(params.string("loss") == "flooding"),
        by_image_(params.string("granularity") == "image"),
        gamma_(params.number("gamma")),
        isolation_ratio_(params.number("isolation_ratio")),
        unlearning_rate_(params.number("unlearning_rate")) {
    isolation_.batch_size = params.integer("batch_size");
    isolation_.optimizer = params.optimizer("optimizer");
    finetuning_ = unlearning_ = isolation_;
    isolation_.augment = false;
    isolation_.epochs = params.integer("isolation_epochs");
    isolation_.scheduler = &params.scheduler("isolation_scheduler");
    finetuning_.epochs = params.integer("finetuning_epochs");
    finetuning_.scheduler = &params.scheduler("finetuning_scheduler");
    unlearning_.epochs = params.integer("unlearning_epochs");
    unlearning_.scheduler = &unlearning_rate_;
  }

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    const backstop::ImageSet& training = data.training();
    const std::int64_t size = training.size();
    const std::int64_t count = std::llround(isolation_ratio_ * static_cast<double>(size));
    if (count == size)
      throw backstop::ParameterError(
          (std::ostringstream() << "an `isolation_ratio` of " << isolation_ratio_
                                << " leaves none of the " << size
                                << " training images to fine-tune on")
              .str(),
          "lower `isolation_ratio`");

    model.reset(backstop::Part::whole, ctx.generator());
    IsolationStep isolation_step(flooding_, by_image_, gamma_);
    backstop::TrainingOptions options = isolation_;
    options.step = &isolation_step;
    ctx.trainer().fit(model, training, options);

    // In single precision the losses of confidently classified images are all zero.
    const at::Tensor losses =
        losses_of(ctx.trainer().logits(model, training).to(at::kDouble), training.labels())
            .to(at::kCPU);
    const at::Tensor order = losses.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
    const at::Tensor isolated = order.narrow(0, 0, count);
    ctx.flag_poison(training.indices().index_select(0, isolated));
    ctx.score_poison(training.indices(), losses.neg());
    ctx.artifact("losses", losses);
    ctx.metric("isolated_images", static_cast<double>(count));

    ctx.trainer().fit(model, ctx.subset(training, order.narrow(0, count, size - count)),
                      finetuning_);
    if (count == 0) {
      ctx.log(backstop::LogLevel::warning, "`isolation_ratio` isolates none of the " +
                                               std::to_string(size) +
                                               " training images, so nothing is unlearned");
      return;
    }
    unlearn(ctx, model, ctx.subset(training, isolated));
  }

 private:
  void unlearn(backstop::Context& ctx, backstop::Model& model,
               const backstop::ImageSet& isolated) const {
    UnlearningStep step(ctx, isolated);
    backstop::TrainingOptions options = unlearning_;
    options.step = &step;
    ctx.trainer().fit(model, isolated, options);
    ctx.metric("isolated_accuracy", ctx.trainer().accuracy(model, isolated));
  }

  bool flooding_, by_image_;
  double gamma_;
  double isolation_ratio_;
  ConstantRate unlearning_rate_;
  backstop::TrainingOptions isolation_, finetuning_, unlearning_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, AntiBackdoorLearning)
