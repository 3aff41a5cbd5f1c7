#include "host/engine/run/defense_stage.hpp"

#include <ATen/ATen.h>

#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/measurements.hpp"
#include "host/engine/run/memory.hpp"
#include "host/engine/store/model_file.hpp"

namespace backstop::engine {

namespace {

/// The backdoored model, with a new head where it is adapted to other classes.
Classifier model_to_defend(const DefenseInputs& inputs) {
  at::Generator generator = engine::make_generator(seed_for(inputs.seed, "model"));
  Classifier model(inputs.architecture, inputs.normalization, inputs.compute, generator);
  model.load_state(inputs.attacked->model.tensors, "the backdoored model");
  if (inputs.scenario != recipe::Scenario::standalone) {
    at::Generator head = engine::make_generator(seed_for(inputs.seed, "head"));
    model.replace_head(inputs.task->data.train.classes(), head);
  }
  return model;
}

/// The same images for all defenses of a seed: they are compared on equal terms.
ImageStore clean_images(const DefenseInputs& inputs) {
  const ImageStore& train = inputs.task->data.train;
  at::Generator generator =
      engine::make_generator(seed_for(inputs.seed, "defender's clean images"));
  return train.subset(
      at::randperm(train.size(), generator, at::kLong).narrow(0, 0, inputs.clean_images));
}

}  // namespace

Stage defend(const DefenseInputs& inputs, const StageServices& services) {
  // One sequence of draws for all defenses, so that they get the same batches, too.
  StageContext ctx(services.label, seed_for(inputs.seed, "defense"), inputs.compute,
                   inputs.task->augmentation, services.observer, services.interrupted);
  const ImageStore& train = inputs.task->data.train;
  Architecture architecture = inputs.architecture;
  architecture.classes = train.classes();
  ctx.set_model(architecture, inputs.normalization);
  require_memory(memory_of(inputs), ctx);
  const PluginObject defense(inputs.defense.use, ctx.warnings());
  Classifier model = model_to_defend(inputs);
  std::optional<ImageStore> clean, training;
  if (inputs.clean_images > 0) clean = clean_images(inputs);
  if (inputs.defense.use.needs("training-data"))
    training = with_poison(train, inputs.attacked->poison);
  const HostDefenderData given(clean ? &*clean : nullptr, training ? &*training : nullptr);

  Measurements measurements(ctx, services.observer, inputs.task->data.test,
                            [&] { return inputs.triggered; });
  // Without a new head the weights are those that the attack's stage measured.
  measurements.before_training(
      model, inputs.defense.use.parameters["epochs"].value_or(std::int64_t{0}),
      inputs.scenario == recipe::Scenario::standalone ? inputs.attacked->row["metrics"]
                                                      : nlohmann::json());
  measurements.follow(model, inputs.measure_every);
  call(defense, "run", ctx, [&] { defense.as<Defense>().run(ctx, model, given); });

  Stage stage;
  stage.row = {{"name", services.label.name},
               {"plugin", inputs.defense.use.name()},
               {"given",
                {{"clean_images", inputs.clean_images},
                 {"training_images", training ? training->size() : 0}}}};
  stage.row.update(measurements.after_training(model));
  stage.row["extra"] = ctx.metrics();
  if (training && ctx.flagged().defined())  // else it knows other images than the poisoned ones
    stage.row["detection"] = detection(ctx.flagged(), inputs.attacked->poison, train.size());
  stage.row["cost"] = ctx.cost().stop();
  stage.epochs = measurements.events();
  stage.model = {model.state(), record_of(model)};
  stage.artifacts = ctx.artifacts();
  stage.pictures = ctx.pictures();
  return stage;
}

}  // namespace backstop::engine
