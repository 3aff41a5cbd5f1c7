// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include "backstop/context.hpp"
#include "backstop/trainer.hpp"
#include "require.hpp"

/// A training step that checks every call of the host. The loss is cross-entropy with a bias of the
/// step's own, and the weights of the first layer are kept from the optimizer.
class WatchedStep final : public backstop::TrainingStep {
 public:
  /// For a training of `model` on `set` with `options`, which ends after `most_epochs`; 0: not
  /// early.
  WatchedStep(backstop::Context& ctx, backstop::Model& model, const backstop::ImageSet& set,
              const backstop::TrainingOptions& options, std::int64_t most_epochs)
      : ctx_(ctx),
        set_(set),
        options_(options),
        most_epochs_(most_epochs),
        first_layer_(model.layers().front().weight.detach().clone()),
        seen_(at::zeros({set.size()}, at::kLong)),
        bias_(ctx.to_device(at::zeros({model.classes()}, at::kFloat))) {
    bias_.set_requires_grad(true);
    position_.epochs = std::max<std::int64_t>(options.epochs, 1);
    position_.iterations_per_epoch = (set.size() + options.batch_size - 1) / options.batch_size;
  }

  [[nodiscard]] std::span<const at::Tensor> parameters() override {
    follow(Call::parameters, {Call::none});
    return {&bias_, 1};
  }
  void before_epoch(backstop::Model& model, std::int64_t epoch) override {
    follow(Call::before_epoch, {Call::parameters, Call::after_epoch});
    require(epoch == epochs_, "before_epoch() counts epochs from 0");
    require(model.training(), "a model that is trained is in training mode");
  }
  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    follow(Call::loss, {Call::before_epoch, Call::after_update});
    check(batch);
    seen_.index_add_(0, batch.positions, at::ones_like(batch.positions));
    return at::cross_entropy_loss(model.forward(batch.images).add(bias_), batch.labels);
  }
  void before_update(backstop::Model& model) override {
    follow(Call::before_update, {Call::loss});
    require(bias_.grad().defined(), "backward() reaches the step's own parameters");
    at::Tensor first = model.layers().front().weight;
    first.mutable_grad().reset();
  }
  void after_update(backstop::Model&) override {
    follow(Call::after_update, {Call::before_update});
    ++position_.iteration;
  }
  backstop::Next after_epoch(backstop::Model&, std::int64_t epoch) override {
    follow(Call::after_epoch, {Call::after_update});
    require(epoch == epochs_, "after_epoch() counts epochs from 0");
    ++epochs_;
    require(seen_.eq(epochs_).all().item<bool>(), "an epoch has every image once");
    return epochs_ == most_epochs_ ? backstop::Next::stop : backstop::Next::epoch;
  }
  void* query(std::string_view) noexcept override { return nullptr; }

  /// Called when fit() has returned.
  void check_end(backstop::Model& model) const {
    const std::int64_t epochs =
        most_epochs_ > 0 ? std::min(most_epochs_, options_.epochs) : options_.epochs;
    require(last_ == Call::after_epoch && epochs_ == epochs, "a training has all of its epochs");
    require(steps() == epochs * position_.iterations_per_epoch, "an epoch has all of its steps");
    require(!model.training(), "fit() leaves a model in evaluation mode");
    require(bias_.detach().abs().sum().item<double>() > 0, "the step's own parameters are trained");
    require(model.layers().front().weight.equal(first_layer_),
            "a parameter without a gradient is not updated");
  }
  [[nodiscard]] std::int64_t steps() const { return position_.iteration; }

 private:
  enum class Call {
    none,
    parameters,
    before_epoch,
    loss,
    before_update,
    after_update,
    after_epoch
  };

  void follow(Call now, std::initializer_list<Call> earlier) {
    require(std::find(earlier.begin(), earlier.end(), last_) != earlier.end(),
            "the functions of a TrainingStep are called in order");
    last_ = now;
  }

  void check(const backstop::Batch& batch) const {
    require(batch.struct_size >= sizeof batch, "a Batch has all of its fields");
    require(batch.iteration == position_.iteration, "Batch::iteration counts steps from 0");
    require(batch.epoch == position_.epoch() && batch.epoch == epochs_, "Batch::epoch fits");
    require(batch.rate == options_.scheduler->rate(position_), "Batch::rate is the scheduler's");
    const std::int64_t done = position_.iteration % position_.iterations_per_epoch;
    const std::int64_t size =
        std::min(options_.batch_size, set_.size() - done * options_.batch_size);
    require(batch.positions.device().is_cpu() && batch.positions.sizes() == at::IntArrayRef({size}),
            "Batch::positions has as many as the batch, on the CPU");
    require(batch.labels.equal(set_.labels().index_select(0, ctx_.to_device(batch.positions))),
            "Batch::labels are those of the set");
    const at::Tensor images = set_.images(batch.positions);
    require(batch.images.sizes() == images.sizes() && batch.images.scalar_type() == at::kFloat &&
                batch.images.ge(0).logical_and(batch.images.le(1)).all().item<bool>(),
            "Batch::images are float32 in 0 .. 1");
    require(options_.augment != 0 || batch.images.equal(images),
            "Batch::images are those of the set, without augmentation");
  }

  backstop::Context& ctx_;
  const backstop::ImageSet& set_;
  backstop::TrainingOptions options_;
  std::int64_t most_epochs_, epochs_ = 0;
  backstop::TrainingPosition position_;
  Call last_ = Call::none;
  at::Tensor first_layer_;
  at::Tensor seen_;  // how often each image was in a batch
  at::Tensor bias_;
};
