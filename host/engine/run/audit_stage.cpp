#include "host/engine/run/audit_stage.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include <ATen/ATen.h>

#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/attack_stage.hpp"
#include "host/engine/run/measurements.hpp"
#include "host/engine/run/model_path.hpp"
#include "host/engine/run/perturbation.hpp"
#include "host/engine/store/model_file.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

class ConstantRate final : public Scheduler {
 public:
  explicit ConstantRate(double rate) : rate_(rate) {}
  double rate(const TrainingPosition&) const override { return rate_; }

 private:
  double rate_;
};

/// SGD with momentum 0.9 and without weight decay at a constant rate, as the authors of the retuning
/// attack do it; the images are as they come.
void fine_tune(StageContext& ctx, Classifier& model, const ImageStore& images, double rate,
               std::int64_t epochs, std::int64_t batch_size) {
  const ConstantRate scheduler(rate);
  TrainingOptions options;
  options.epochs = epochs;
  options.batch_size = batch_size;
  options.scheduler = &scheduler;
  options.optimizer.weight_decay = 0;
  options.augment = 0;
  ctx.trainer().fit(model, images, options);
}

Classifier model_of(const AttackInputs& inputs) {
  at::Generator generator = make_generator(seed_for(inputs.seed, "model"));
  return {inputs.architecture, inputs.normalization, inputs.compute, generator};
}

/// `count` of the numbers below `all`.
at::Tensor some_of(std::int64_t all, std::int64_t count, at::Generator& generator) {
  return at::randperm(all, generator, at::kLong).narrow(0, 0, std::min(all, count));
}

ImageStore set_of(const at::Tensor& pixels, const at::Tensor& labels, const ImageStore& like) {
  return {pixels, labels, like.classes(), like.labels().device()};
}

ImageStore joined(const ImageStore& a, const ImageStore& b) {
  const auto all = [](const ImageStore& set) {
    return set.pixels(at::arange(set.size(), at::kLong));
  };
  return set_of(at::cat({all(a), all(b)}), at::cat({a.labels(), b.labels()}), a);
}

/// Each image randomly cropped and flipped, once.
ImageStore augmented(StageContext& ctx, const ImageStore& images) {
  const at::Tensor all = at::arange(images.size(), at::kLong);
  return set_of(to_8_bits(ctx.trainer().augment(images.images(all))), images.labels(), images);
}

/// The images whose label is not yet their target, in order.
at::Tensor positions_to_attack(const at::Tensor& labels, const at::Tensor& targets) {
  return labels.ne(targets).nonzero().flatten().to(at::kCPU);
}

double share(const at::Tensor& mask) {
  return mask.to(at::kDouble).mean().item<double>();
}

/// What the attacker has: his trigger, and what it is to do.
class Attacker {
 public:
  Attacker(const AttackInputs& inputs, const Stage& undefended, StageContext& ctx)
      : inputs_(inputs), ctx_(ctx), plugin_(inputs.attack.use, ctx.warnings()) {
    const TensorState state(undefended.state);
    call(plugin_, "load", ctx, [&] { plugin_.as<Attack>().load(ctx, inputs.threat, state); });
  }

  [[nodiscard]] at::Tensor targets(const at::Tensor& labels) const {
    return inputs_.threat.targets(labels);
  }

  /// The images with the trigger as in a test, and with their true labels.
  [[nodiscard]] ImageStore triggered(const ImageStore& images) const {
    const at::Tensor pixels = images.images(at::arange(images.size(), at::kLong));
    const at::Tensor changed = call(plugin_, "apply", ctx_, [&] {
      return plugin_.as<Attack>().apply(ctx_, pixels, Phase::test).detach();
    });
    return set_of(to_8_bits(changed), images.labels(), images);
  }

 private:
  const AttackInputs& inputs_;
  StageContext& ctx_;
  PluginObject plugin_;
};

ImageStore with_labels(const ImageStore& images, const at::Tensor& labels) {
  return set_of(images.pixels(at::arange(images.size(), at::kLong)), labels, images);
}

/// One audit of one model.
class Audit {
 public:
  Audit(const AuditInputs& inputs, StageContext& ctx)
      : inputs_(inputs),
        ctx_(ctx),
        attacker_(*inputs.attack, *inputs.undefended, ctx),
        subject_(model_of(*inputs.attack)),
        train_(inputs.attack->source->data.train),
        test_(inputs.attack->source->data.test),
        attacked_(positions_to_attack(test_.labels(), inputs.triggered->targets)),
        triggered_(inputs.triggered->images.subset(attacked_)),
        targets_(inputs.triggered->targets.index_select(
            0, send(attacked_, inputs.triggered->targets.device()))) {
    subject_.load_state(*inputs.subject, "the model");
  }

  /// The model as it is, and every part of the audit.
  [[nodiscard]] json row() {
    const double clean = ctx_.trainer().accuracy(subject_, test_);
    metrics_ = {{"clean_accuracy", clean}, {"attack_success_rate", success(subject_, triggered_)}};
    json row = json::object();
    const recipe::AuditUse& settings = inputs_.settings;
    if (settings.retuning) retune(*settings.retuning);
    if (settings.path) row["path"] = path(*settings.path);
    if (settings.reactivation) reactivate(*settings.reactivation);
    if (settings.sequela) attack_otherwise(*settings.sequela);
    row["metrics"] = metrics_;
    row["counts"] = {{"clean", test_.size()}, {"triggered", triggered_.size()}};
    row["counts"].update(counts_);
    return row;
  }

 private:
  /// The share of the images to attack that the model sends to their targets.
  [[nodiscard]] double success(Classifier& model, const ImageStore& images) {
    return share(ctx_.trainer().logits(model, images).argmax(1).eq(targets_));
  }

  /// `count` of the images that the attacker has poisoned for the training, or all of them.
  [[nodiscard]] ImageStore poison(std::int64_t count) {
    const NamedTensors& record = inputs_.undefended->poison;
    const at::Tensor poisoned = tensor_named(record, "roles")
                                    .eq(static_cast<std::int64_t>(Role::poison))
                                    .nonzero()
                                    .flatten();
    const at::Tensor rows =
        poisoned.index_select(0, some_of(poisoned.numel(), count, ctx_.generator()));
    return set_of(tensor_named(record, "images").index_select(0, rows),
                  tensor_named(record, "labels").index_select(0, rows), train_);
  }

  /// `count` clean training images whose label is not their target.
  [[nodiscard]] ImageStore images_to_attack(std::int64_t count) {
    const at::Tensor positions =
        positions_to_attack(train_.labels(), attacker_.targets(train_.labels()));
    return train_.subset(
        positions.index_select(0, some_of(positions.numel(), count, ctx_.generator())));
  }

  /// Each part draws by itself, so that it is the same without the others.
  void begin(const char* part) {
    ctx_.generator().set_current_seed(seed_for(inputs_.attack->seed, std::string("audit/") + part));
  }

  void retune(const recipe::AuditUse::Retuning& part) {
    begin("retuning");
    const std::int64_t all = std::llround(part.clean_fraction * static_cast<double>(train_.size()));
    const std::int64_t clean = std::max<std::int64_t>(1, all - part.poisoned_images);
    const ImageStore images =
        augmented(ctx_, train_.subset(some_of(train_.size(), clean, ctx_.generator())));
    const ImageStore poisoned = poison(part.poisoned_images);
    Classifier model(subject_);
    fine_tune(ctx_, model, joined(images, poisoned), part.rate, part.epochs, part.batch_size);
    metrics_["retuned_attack_success_rate"] = success(model, triggered_);
    metrics_["retuned_clean_accuracy"] = ctx_.trainer().accuracy(model, test_);
    counts_["retuning_clean"] = clean;
    counts_["retuning_poisoned"] = poisoned.size();
  }

  [[nodiscard]] json path(const recipe::AuditUse::Path& part) {
    constexpr double kAlive = 0.5;
    Classifier model(subject_);
    json points = json::array();
    metrics_["path_reach"] = nullptr;
    for (std::int64_t i = 0; i < part.points; ++i) {
      const double t = static_cast<double>(i) / static_cast<double>(part.points - 1);
      model.load_state(between(inputs_.undefended->model.tensors, *inputs_.subject, t),
                       "a model on the path");
      const at::Tensor logits = ctx_.trainer().logits(model, triggered_);
      const double rate = share(logits.argmax(1).eq(targets_));
      const double loss = at::cross_entropy_loss(logits, targets_).item<double>();
      points.push_back({{"t", t},
                        {"attack_success_rate", rate},
                        {"clean_accuracy", ctx_.trainer().accuracy(model, test_)},
                        {"target_loss", std::isfinite(loss) ? json(loss) : json(nullptr)}});
      if (rate > kAlive) metrics_["path_reach"] = t;
      ctx_.progress(i + 1, part.points, "models on the path");
    }
    return points;
  }

  void reactivate(const recipe::AuditUse::Reactivation& part) {
    begin("reactivation");
    const ImageStore clean = images_to_attack(part.images);
    const at::Tensor targets = attacker_.targets(clean.labels());
    const UniversalSearch search{{Ball::Norm::l2, part.norm}, part.steps, part.batch_size};
    const auto reached = [&](const ImageStore& searched_on, const ImageStore& measured_on) {
      const at::Tensor change = universal_perturbation(
          ctx_, subject_, with_labels(searched_on, targets), search, only_label_loss);
      return success(subject_, perturbed(ctx_, measured_on, change));
    };
    metrics_["reactivated_attack_success_rate"] = reached(attacker_.triggered(clean), triggered_);
    metrics_["perturbed_target_rate"] = reached(clean, test_.subset(attacked_));
    counts_["reactivation_images"] = clean.size();
  }

  void attack_otherwise(const recipe::AuditUse::Sequela& part) {
    begin("sequela");
    constexpr std::int64_t kSteps = 100, kBatch = 128, kImages = 1000;
    const ImageStore searched_on = train_.subset(some_of(train_.size(), kImages, ctx_.generator()));
    const UniversalSearch search{{Ball::Norm::maximum, part.universal_radius}, kSteps, kBatch};
    const at::Tensor change =
        universal_perturbation(ctx_, subject_, searched_on, search, not_label_loss);
    const at::Tensor before = ctx_.trainer().logits(subject_, test_).argmax(1);
    const at::Tensor after =
        ctx_.trainer().logits(subject_, perturbed(ctx_, test_, change)).argmax(1);
    metrics_["universal_fooling_rate"] = share(after.ne(before));
    const ImageStore attacked = test_.subset(some_of(test_.size(), part.images, ctx_.generator()));
    metrics_["adversarial_accuracy"] = ctx_.trainer().accuracy(
        subject_, adversarial_images(ctx_, subject_, attacked, part.radius, part.iterations));
    counts_["adversarial"] = attacked.size();
  }

  const AuditInputs& inputs_;
  StageContext& ctx_;
  Attacker attacker_;
  Classifier subject_;
  const ImageStore& train_;
  const ImageStore& test_;
  at::Tensor attacked_;   ///< positions of test images whose label is not their target
  ImageStore triggered_;  ///< those, with the trigger
  at::Tensor targets_;    ///< and what the attacker wants of them
  json metrics_, counts_ = json::object();
};

/// A control's stage: its model, measured.
Stage measured(StageContext& ctx, const StageServices& services, Measurements& measurements,
               Classifier& model) {
  Stage stage;
  stage.row = {{"name", services.label.name}, {"plugin", nullptr}};
  stage.row.update(measurements.after_training(model));
  stage.row["cost"] = ctx.cost().stop();
  stage.epochs = ctx.epochs();
  stage.model = {model.state(), record_of(model)};
  return stage;
}

}  // namespace

Stage train_clean_model(const CleanModelInputs& inputs, const StageServices& services) {
  StageContext ctx(services.label, seed_for(inputs.seed, "clean model"), inputs.compute,
                   inputs.source->augmentation, services.observer, services.interrupted);
  ctx.keep(services.checkpoints);
  ctx.set_model(inputs.architecture, inputs.normalization);
  // The same first weights as those of the backdoored model.
  at::Generator generator = make_generator(seed_for(inputs.seed, "model"));
  Classifier model(inputs.architecture, inputs.normalization, inputs.compute, generator);
  const GuardedScheduler scheduler(PluginObject(inputs.scheduler.use, ctx.warnings()),
                                   ctx.warnings());
  const TrainingOptions options = options_from(inputs.training, scheduler);
  // Nobody's trigger: all attacks share the model.
  Measurements measurements(ctx, &inputs.source->data.test, [] { return nullptr; });
  measurements.before_training(model, options.epochs, nullptr);
  measurements.follow(model, 1);
  ctx.trainer().fit(model, inputs.source->data.train, options);
  return measured(ctx, services, measurements, model);
}

Stage purify_exactly(const PurificationInputs& inputs, const StageServices& services) {
  // The defender's usual share of the training set, and the rate of the retuning attack.
  constexpr double kShare = 0.05, kRate = 0.01;
  constexpr std::int64_t kEpochs = 10, kBatch = 128;
  const AttackInputs& attack = *inputs.attack;
  StageContext ctx(services.label, seed_for(attack.seed, "exact purification"), attack.compute,
                   attack.source->augmentation, services.observer, services.interrupted);
  ctx.keep(services.checkpoints);
  ctx.set_model(attack.architecture, attack.normalization);
  Classifier model = model_of(attack);
  model.load_state(inputs.undefended->model.tensors, "the model");
  const Attacker attacker(attack, *inputs.undefended, ctx);
  const ImageStore& train = attack.source->data.train;
  const auto count =
      std::max<std::int64_t>(1, std::llround(kShare * static_cast<double>(train.size())));
  const ImageStore clean = train.subset(some_of(train.size(), count, ctx.generator()));
  Measurements measurements(ctx, &attack.source->data.test, [&] { return inputs.triggered; });
  measurements.before_training(model, kEpochs, inputs.undefended->row["metrics"]);
  measurements.follow(model, kEpochs);
  fine_tune(ctx, model, joined(augmented(ctx, clean), attacker.triggered(clean)), kRate, kEpochs,
            kBatch);
  return measured(ctx, services, measurements, model);
}

Stage audit(const AuditInputs& inputs, const StageServices& services) {
  const AttackInputs& attack = *inputs.attack;
  // One sequence of draws for all models, so that the same is done to them.
  StageContext ctx(services.label, seed_for(attack.seed, "audit"), attack.compute,
                   attack.source->augmentation, services.observer, services.interrupted);
  ctx.keep(services.checkpoints);
  ctx.set_model(attack.architecture, attack.normalization);
  Stage stage;
  stage.row = Audit(inputs, ctx).row();
  stage.row["cost"] = ctx.cost().stop();
  stage.epochs = json::array();
  return stage;
}

}  // namespace backstop::engine
