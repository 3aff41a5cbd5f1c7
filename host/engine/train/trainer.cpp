#include "host/engine/train/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backstop/error.hpp"
#include "host/base/interrupt.hpp"
#include "host/engine/plugins/plugin_object.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/train/cost.hpp"
#include "host/engine/train/cuda.hpp"
#include "host/engine/train/optimizer.hpp"
#include "host/engine/train/recorded_work.hpp"
#include "host/engine/train/work_checkpoint.hpp"

namespace backstop::engine {

namespace {

TrainingOptions read_options(const TrainingOptions& given) {
  const TrainingOptions options = known_fields(given);
  if (options.scheduler == nullptr) throw Error("training needs a scheduler");
  if (options.epochs < 0)
    throw Error(fmt::format("the number of epochs must be at least 0, got {}", options.epochs));
  if (options.batch_size < 1)
    throw Error(fmt::format("the batch size must be at least 1, got {}", options.batch_size));
  return options;
}

double rate_at(const Scheduler& scheduler, const TrainingPosition& position) {
  const double rate = scheduler.rate(position);
  if (!std::isfinite(rate) || rate < 0)
    throw Error(fmt::format("the scheduler returned a learning rate of {} at iteration {}", rate,
                            position.iteration),
                "a learning rate must be finite and not negative");
  return rate;
}

/// `position` is that of the step that the loss belongs to, or of the one after an epoch.
void require_finite(const at::Tensor& loss, const TrainingPosition& position, double rate) {
  if (std::isfinite(loss.item<double>())) return;
  if (position.iteration == 0)
    throw Error("the loss is not a finite number in the first iteration",
                "the cause lies before this training, which has changed no weight yet");
  throw Error(
      fmt::format("the loss is no longer a finite number in epoch {}, iteration {}, at a learning "
                  "rate of {}",
                  position.epoch() + 1, position.iteration, rate),
      "training diverged: lower the learning rates of the scheduler");
}

void require_finite(const Classifier& model) {
  if (const std::int64_t numbers = model.not_finite(); numbers > 0)
    throw Error(fmt::format("the model has weights that are not finite ({}) before it is trained",
                            numbers));
}

}  // namespace

Classifier& host_model(Model& model) {
  if (auto* own = dynamic_cast<Classifier*>(&model)) return *own;
  throw Error("the model was not made by the host", "get models from the context: Context::clone");
}

const ImageStore& host_set(const ImageSet& images) {
  if (const auto* own = dynamic_cast<const ImageStore*>(&images)) return *own;
  throw Error("the image set was not made by the host",
              "get image sets from the context: Context::image_set, Context::subset");
}

HostTrainer::HostTrainer(const Augmentation& augmentation, at::Generator& generator,
                         RunObserver* observer, const std::atomic<int>* interrupted)
    : augmentation_(augmentation),
      generator_(generator),
      observer_(observer),
      interrupted_(interrupted) {}

void HostTrainer::measure(const Model& subject, EpochHook hook) {
  subject_ = &subject;
  hook_ = std::move(hook);
  subject_epochs_ = 0;
}

bool HostTrainer::cancelled() const {
  base::sign_of_life();
  return interrupted_ != nullptr && interrupted_->load() != 0;
}

void HostTrainer::stop_if_cancelled() const {
  if (cancelled()) throw Cancelled();
}

namespace {

/// The images at `positions`, augmented and normalized for `model`.
at::Tensor prepared(const Classifier& model, const ImageStore& set, const at::Tensor& positions,
                    const Draws& draws) {
  if (set.labels().is_cpu())
    return set.batch(positions, model.normalization(), draws, model.compute().bfloat16);
  return model.normalize(apply_augmentation(set.images(positions), draws));
}

/// Throws Error unless `loss` is what TrainingStep::loss must return.
void require_loss(const at::Tensor& loss) {
  const auto refuse = [](const std::string& what, const char* hint) {
    throw Error("TrainingStep::loss returned " + what, hint);
  };
  if (!loss.defined()) refuse("no tensor", "return the loss of the batch, a float scalar");
  if (loss.numel() != 1 || !loss.is_floating_point())
    refuse(fmt::format("a tensor of shape [{}] and type {}, not a float scalar",
                       fmt::join(loss.sizes(), ", "), c10::toString(loss.scalar_type())),
           "return one number for the batch, such as the mean over its images");
  if (!loss.requires_grad())
    refuse("a loss without a graph",
           "compute it from what Model::forward returns, without detach() or an at::NoGradGuard");
}

at::Tensor batch_loss(Classifier& model, const ImageStore& set, const at::Tensor& positions,
                      const Draws& draws, const TrainingPosition& at, double rate,
                      TrainingStep* step) {
  const at::Tensor labels = set.labels().index_select(0, send(positions, set.labels().device()));
  if (step != nullptr) {
    Batch batch;
    batch.images = apply_augmentation(set.images(positions), draws);
    batch.labels = labels;
    batch.positions = positions;
    batch.epoch = at.epoch();
    batch.iteration = at.iteration;
    batch.rate = rate;
    const at::Tensor loss = step->loss(model, batch);
    require_loss(loss);
    return loss;
  }
  return at::cross_entropy_loss(model.forward_normalized(prepared(model, set, positions, draws)),
                                labels);
}

/// Adds the tensors that the step wants trained to `parameters`.
void add_own_parameters(TrainingStep& step, const Classifier& model,
                        std::vector<at::Tensor>& parameters) {
  for (const at::Tensor& own : step.parameters()) {
    if (!own.defined() || !own.is_leaf() || !own.requires_grad() ||
        own.scalar_type() != at::kFloat || own.device() != model.compute().device ||
        !own.is_non_overlapping_and_dense())
      throw Error(
          "TrainingStep::parameters returned a tensor that cannot be trained: it must be a dense "
          "float32 leaf that requires gradients, on the run's device",
          "make it with Context::to_device and at::Tensor::requires_grad_");
    if (std::any_of(parameters.begin(), parameters.end(),
                    [&](const at::Tensor& other) { return other.is_same(own); }))
      throw Error("TrainingStep::parameters returned a tensor twice, or one of the model's own");
    parameters.push_back(own);
  }
}

}  // namespace

void HostTrainer::fit(Model& model, const ImageSet& images, const TrainingOptions& given) {
  const TrainingOptions options = read_options(given);
  Classifier& classifier = host_model(model);
  const ImageStore& set = host_set(images);
  if (set.size() == 0) throw Error("cannot train on an empty image set");

  require_finite(classifier);

  const c10::AutoGradMode gradients(true);
  classifier.set_trainable(options.trainable);
  classifier.set_batch_norm(options.batch_norm);
  std::vector<at::Tensor> parameters = classifier.trainable_parameters();
  const std::size_t models = parameters.size();
  if (options.step != nullptr) add_own_parameters(*options.step, classifier, parameters);
  const auto optimizer = make_optimizer(parameters, options.optimizer);

  TrainingPosition position;
  position.epochs = std::max<std::int64_t>(options.epochs, 1);
  position.iterations_per_epoch = (set.size() + options.batch_size - 1) / options.batch_size;
  double rate = 0;
  const c10::Device device = classifier.compute().device;
  FitPosition at;
  at.loss_sum = at::zeros({}, at::TensorOptions(at::kFloat).device(device));
  const bool alone = options.step == nullptr;  // no plugin takes part

  const auto learn = [&](const at::Tensor& positions, const Draws& draws) {
    const at::Tensor loss =
        batch_loss(classifier, set, positions, draws, position, rate, options.step);
    if (device.is_cpu()) require_finite(loss, position, rate);  // elsewhere reading it would wait
    for (at::Tensor& parameter : parameters) parameter.mutable_grad().reset();
    loss.backward();
    if (!alone) options.step->before_update(model);
    optimizer->step();
    classifier.hold_masks();
    if (!alone) options.step->after_update(model);
    at.loss_sum.add_(loss.detach(), static_cast<double>(positions.numel()));
  };
  // An interpreter may look at values between the kernels.
  const bool script = classifier.architecture().script != nullptr;
  const bool recorded = alone && own_kernels() && optimizer->recordable() && !script;
  RecordedWork step(recorded ? make_recorder(device) : nullptr,
                    [&](const std::vector<at::Tensor>& inputs) {
                      learn(inputs[0], {inputs[1], inputs[2], inputs[3]});
                    });

  const auto there = [&](const at::Tensor& t) {
    return alone && t.defined() ? send(t, device) : t;  // plugins get positions on the CPU
  };

  const auto rate_of = [&](double epoch) {
    TrainingPosition then = position;
    then.iteration = static_cast<std::int64_t>((epoch - static_cast<double>(subject_epochs_)) *
                                               static_cast<double>(position.iterations_per_epoch));
    return rate_at(*options.scheduler, then);
  };

  std::optional<FitCheckpoint> kept;
  if (ctx_ != nullptr) {
    kept.emplace(*ctx_, FitState{classifier, set, options, *optimizer,
                                 std::span(parameters).subspan(models), at});
    kept->resume();
  }
  position.iteration = at.epoch * position.iterations_per_epoch + at.images / options.batch_size;
  const bool had_ended = at.ended;
  while (!at.ended && at.epoch < options.epochs) {
    classifier.set_training(true);
    if (!at.order.defined()) {
      if (!alone) options.step->before_epoch(model, at.epoch);
      at.order = at::randperm(set.size(), generator_, at::kLong);
      at.loss_sum.zero_();
    }
    while (at.images < set.size()) {
      if (cancelled()) {
        if (kept) kept->save();
        throw Cancelled();
      }
      if (kept) kept->save_if_due();
      const at::Tensor positions =
          at.order.narrow(0, at.images, std::min(options.batch_size, set.size() - at.images));
      Draws draws;
      if (options.augment) draws = draw_augmentation(augmentation_, positions.numel(), generator_);
      rate = rate_at(*options.scheduler, position);
      optimizer->set_rate(rate);
      if (!step({there(positions), there(draws.dx), there(draws.dy), there(draws.flip)}))
        CostMeter::count_samples(positions.numel());
      ++position.iteration;
      at.images += positions.numel();
      if (observer_ != nullptr)
        observer_->progress(at.epoch * set.size() + at.images, options.epochs * set.size(),
                            "images trained");
    }
    require_finite(at.loss_sum, position, rate);
    if (!alone) at.ended = options.step->after_epoch(model, at.epoch) == Next::stop;
    ++at.epoch;
    if (&model == subject_)
      hook_(classifier, {subject_epochs_ + at.epoch, subject_epochs_,
                         subject_epochs_ + (at.ended ? at.epoch : options.epochs),
                         at.loss_sum.item<double>() / static_cast<double>(set.size()), rate_of});
    at.images = 0;
    at.order.reset();
    if (kept && !at.ended && at.epoch < options.epochs) kept->save_if_due();
  }
  at.ended = true;
  if (&model == subject_) subject_epochs_ += at.epoch;
  classifier.set_batch_norm(BatchNormMode::normal);
  if (options.trainable != Part::chosen) classifier.set_trainable(Part::whole);
  classifier.set_training(false);
  if (kept && !had_ended) kept->save();
}

at::Tensor HostTrainer::evaluate(Model& model, const ImageSet& images, std::int64_t columns,
                                 const Head& head) {
  Classifier& classifier = host_model(model);
  const ImageStore& set = host_set(images);
  const Compute& compute = classifier.compute();
  const at::NoGradGuard no_gradients;
  // So that the weights are cast once for all batches.
  const AutocastGuard precision(compute.device.type(), compute.bfloat16);
  const bool was_training = classifier.training();
  classifier.set_training(false);
  const std::int64_t batch_size = compute.device.is_cpu() ? 250 : 1000;
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < set.size(); first += batch_size) {
    stop_if_cancelled();
    const at::Tensor positions =
        at::arange(first, std::min(first + batch_size, set.size()), at::kLong);
    parts.push_back(head(classifier, prepared(classifier, set, positions, {})).to(at::kFloat));
  }
  classifier.set_training(was_training);
  if (parts.empty()) return at::empty({0, columns}, at::device(compute.device));
  return at::cat(parts);
}

at::Tensor HostTrainer::logits(Model& model, const ImageSet& images) {
  return evaluate(model, images, model.classes(), [](Classifier& classifier, const at::Tensor& x) {
    return classifier.forward_normalized(x);
  });
}

at::Tensor HostTrainer::features(Model& model, const ImageSet& images) {
  return evaluate(model, images, model.feature_size(),
                  [](Classifier& classifier, const at::Tensor& x) {
                    return classifier.features_normalized(x);
                  });
}

double HostTrainer::accuracy(Model& model, const ImageSet& images) {
  const at::Tensor outputs = logits(model, images);
  const at::Tensor correct = outputs.argmax(1).eq(images.labels());
  // What argmax makes of logits that are not finite is nobody's prediction.
  return correct.logical_and(at::isfinite(outputs).all(1)).to(at::kDouble).mean().item<double>();
}

at::Tensor HostTrainer::augment(const at::Tensor& images) {
  return apply_augmentation(images, draw_augmentation(augmentation_, images.size(0), generator_));
}

}  // namespace backstop::engine
