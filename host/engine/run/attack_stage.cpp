#include "host/engine/run/attack_stage.hpp"

#include <algorithm>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "host/engine/data/image_quality.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/measurements.hpp"
#include "host/engine/run/memory.hpp"
#include "host/engine/run/trigger.hpp"
#include "host/engine/store/opened_model.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

/// Prepares the trigger and poisons the training set, or reads both from the attack's file.
void make_trigger(const PluginObject& attack, const AttackInputs& inputs, StageContext& ctx,
                  TrainingSetCopy& editor) {
  auto& plugin = attack.as<Attack>();
  const ImageStore& train = inputs.source->data.train;
  if (inputs.attack_file) {
    const std::string file = inputs.attack_file->path.string();
    const AttackFile learned = read_attack_file(file);
    for (const char* name : {"positions", "images", "labels", "roles"})
      if (std::none_of(learned.poison.begin(), learned.poison.end(),
                       [&](const auto& tensor) { return tensor.first == name; }))
        throw base::HostError(
            base::ExitCode::environment,
            fmt::format("{} is not whole: it lacks the tensor `poison.{}`", file, name),
            "a run leaves an attack file as models/no-defense.attack.safetensors");
    require_finite(learned.state, file);
    require_same_attack(learned.record, inputs);
    const bool poison = tensor_named(learned.poison, "positions").numel() > 0;
    if (poison) require_same_training_set(learned.record, inputs);
    if (const std::string text = unverified(learned.record, poison); !text.empty())
      ctx.log(LogLevel::warning, file + " " + text);
    const TensorState state(learned.state);
    call(attack, "load", ctx, [&] { plugin.load(ctx, inputs.threat, state); });
    editor.restore(learned.poison, inputs.threat, file);
    return;
  }
  call(attack, "prepare", ctx, [&] { plugin.prepare(ctx, inputs.threat, train); });
  call(attack, "poison", ctx, [&] { plugin.poison(ctx, inputs.threat, editor); });
  if (!inputs.model_file) return;
  if (editor.empty() && attack.entry().manifest.poisons)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("attack `{}` poisons the training set while it trains the model: with "
                    "`model.file` alone the defenses would get clean training data",
                    attack.entry().manifest.name),
        "give `attack.file` too; a run leaves it beside the model, as "
        "models/no-defense.attack.safetensors");
  ctx.log(LogLevel::warning,
          "the model comes from a file, but its trigger is made anew from the seed; name the file "
          "of what the attack has learned with `attack.file`");
}

/// Loads the model's file and returns the attack that it names. An encoder is not measured before it
/// is adapted, so nothing else would show that it does not know the recipe's trigger: a classifier's
/// body is an encoder, too, whatever it was trained for.
std::optional<std::string> load_model(const AttackInputs& inputs, StageContext& ctx,
                                      Classifier& model) {
  const std::string file = inputs.model_file->path.string();
  const OpenedModel opened = open_model(inputs.model_file->path);
  model.load_state(opened.weights(), file);
  const auto& trained_with = opened.file.facts.attack;
  const std::string& attack = inputs.attack.use.name();
  if (inputs.encoder && trained_with && *trained_with != attack)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("{} was trained with attack `{}`, but the recipe's attack is `{}`: as an "
                    "encoder, the model does not know its trigger",
                    file, *trained_with, attack),
        "name the attack of the file in [attack], or leave out `model.file` to train an encoder");
  if (inputs.encoder && !trained_with)
    ctx.log(LogLevel::warning,
            fmt::format("{} does not record an attack: whether it is an encoder that knows the "
                        "trigger of `{}` cannot be verified",
                        file, attack));
  return trained_with;
}

/// The attack's own training, under the recipe's schedule.
void train(const PluginObject& attack, const AttackInputs& inputs, StageContext& ctx,
           Classifier& model, const ImageStore& poisoned, TrainingSetCopy& editor) {
  const GuardedScheduler scheduler(PluginObject(inputs.scheduler.use, ctx.warnings()),
                                   ctx.warnings());
  const TrainingOptions options = options_from(inputs.training, scheduler);
  call(attack, "train", ctx,
       [&] { attack.as<Attack>().train(ctx, inputs.threat, model, poisoned, editor, options); });
}

std::int64_t images_with(const NamedTensors& poison, Role role) {
  return tensor_named(poison, "roles")
      .eq(static_cast<std::int64_t>(role))
      .sum()
      .item<std::int64_t>();
}

}  // namespace

TrainingOptions options_from(const recipe::TrainingUse& training, const Scheduler& scheduler) {
  TrainingOptions options;
  options.epochs = training.epochs;
  options.batch_size = training.batch_size;
  options.scheduler = &scheduler;
  set_optimizer(training.optimizer, options.optimizer);
  return options;
}

Stage train_attack(const AttackInputs& inputs, const StageServices& services) {
  const DatasetInput& source = *inputs.source;
  StageContext ctx(services.label, seed_for(inputs.seed, "attack"), inputs.compute,
                   source.augmentation, services.observer, services.interrupted);
  ctx.keep(services.checkpoints);
  ctx.set_model(inputs.architecture, inputs.normalization);
  require_memory(memory_of(inputs), ctx);
  const PluginObject attack(inputs.attack.use, ctx.warnings());
  at::Generator generator = engine::make_generator(seed_for(inputs.seed, "model"));
  Classifier model(inputs.architecture, inputs.normalization, inputs.compute, generator);
  std::optional<std::string> trained_with = inputs.attack.use.name();
  if (inputs.model_file) trained_with = load_model(inputs, ctx, model);
  TrainingSetCopy editor(source.data.train);
  make_trigger(attack, inputs, ctx, editor);
  const ImageStore poisoned = with_poison(source.data.train, editor.record());

  std::optional<TriggeredSet> triggered;
  const auto apply_trigger = [&] {
    triggered.emplace(
        triggered_set(attack, source, inputs.encoder ? nullptr : &inputs.threat, ctx));
  };
  if (!inputs.encoder) apply_trigger();
  Measurements measurements(ctx, inputs.encoder ? nullptr : &source.data.test,
                            [&] { return &*triggered; });
  if (inputs.model_file) {
    measurements.before_training(model, 0, nullptr);
  } else {
    measurements.before_training(model, inputs.training.epochs, nullptr);
    // The trigger may be learned on the way.
    measurements.follow(model, 1, [&] {
      if (!inputs.encoder) apply_trigger();
    });
    train(attack, inputs, ctx, model, poisoned, editor);
    if (!inputs.encoder) apply_trigger();
  }

  Stage stage;
  stage.poison = editor.record();
  TensorState state;
  call(attack, "save", ctx, [&] { attack.as<Attack>().save(state); });
  stage.state = state.tensors();
  stage.attack_record = attack_record(inputs);
  stage.row = {{"name", recipe::kUndefended},
               {"plugin", nullptr},
               {"given", {{"clean_images", 0}, {"training_images", 0}}}};
  stage.row.update(measurements.after_training(model));
  {
    const CostMeter::Evaluation pause(ctx.cost());
    if (inputs.encoder) apply_trigger();
    stage.row["trigger"] = image_quality(source.data.test, triggered->images);
  }
  stage.row["extra"] = ctx.metrics();
  stage.row["extra"]["poisoned_images"] = images_with(stage.poison, Role::poison);
  stage.row["extra"]["cover_images"] = images_with(stage.poison, Role::cover);
  stage.row["cost"] = ctx.cost().stop();
  stage.epochs = ctx.epochs();
  stage.model = {model.state(), record_of(model)};
  if (trained_with) stage.model.metadata[kAttackKey] = *trained_with;
  stage.artifacts = ctx.artifacts();
  stage.pictures = ctx.pictures();
  return stage;
}

TriggeredSet trigger_of(const Stage& stage, const AttackInputs& inputs, const DatasetInput& task,
                        bool own_classes, const StageServices& services) {
  StageContext ctx(services.label, seed_for(inputs.seed, "attack/load"), inputs.compute, {},
                   services.observer, services.interrupted);
  ctx.set_model(inputs.architecture, inputs.normalization);
  const PluginObject attack(inputs.attack.use, ctx.warnings());
  const TensorState state(stage.state);
  call(attack, "load", ctx, [&] { attack.as<Attack>().load(ctx, inputs.threat, state); });
  return triggered_set(attack, task, own_classes ? &inputs.threat : nullptr, ctx);
}

}  // namespace backstop::engine
