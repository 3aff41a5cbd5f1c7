#include "host/engine/run/defense_stage.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "backstop/model_detector.hpp"
#include "host/base/text.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/input_detection.hpp"
#include "host/engine/run/measurements.hpp"
#include "host/engine/run/memory.hpp"
#include "host/engine/run/suspect_stage.hpp"
#include "host/engine/store/model_file.hpp"

namespace backstop::engine {

namespace {

/// The backdoored model, with a new head where it is adapted to other classes.
Classifier model_to_defend(const DefenseInputs& inputs) {
  at::Generator generator = engine::make_generator(seed_for(inputs.seed, "model"));
  Classifier model(inputs.architecture, inputs.normalization, inputs.compute, generator);
  model.load_state(inputs.undefended->model.tensors, "the model");
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

/// What a plugin is given, and the model that it works on.
struct Given {
  Classifier model;
  std::optional<ImageStore> clean, training;

  explicit Given(const DefenseInputs& inputs) : model(model_to_defend(inputs)) {
    if (inputs.clean_images > 0) clean = clean_images(inputs);
    if (inputs.defense.use.needs("training-data"))
      training = with_poison(inputs.task->data.train, inputs.undefended->poison);
  }
  [[nodiscard]] HostDefenderData data() const {
    return {clean ? &*clean : nullptr, training ? &*training : nullptr};
  }
  /// The row's "given".
  [[nodiscard]] nlohmann::json counts() const {
    return {{"clean_images", clean ? clean->size() : 0},
            {"training_images", training ? training->size() : 0}};
  }
};

void set_model(StageContext& ctx, const DefenseInputs& inputs) {
  Architecture architecture = inputs.architecture;
  architecture.classes = inputs.task->data.train.classes();
  ctx.set_model(architecture, inputs.normalization);
  require_memory(memory_of(inputs), ctx);
}

/// What a detector says, as the row's "verdict": {score, threshold, suspicious, suspects: [{label,
/// evidence}], classes: {column: [number of each class, or null]}, reason}. "suspicious" is null
/// where there is a reason for no verdict.
class Verdict final : public ModelVerdict {
 public:
  explicit Verdict(std::int64_t classes) : classes_(classes) {}

  void score(double value, double threshold) override {
    if (verdict_.contains("score")) throw Error("a detector gave two scores");
    if (!std::isfinite(value) || !std::isfinite(threshold))
      throw Error(
          fmt::format("a detector gave the score {} and the threshold {}", value, threshold));
    verdict_["score"] = value;
    verdict_["threshold"] = threshold;
  }
  void class_number(std::int64_t label, std::string_view column, double value) override {
    require_class(label);
    auto& numbers = verdict_["classes"][base::valid_utf8(column)];
    if (numbers.is_null()) numbers = nlohmann::json(static_cast<std::size_t>(classes_), nullptr);
    if (std::isfinite(value)) numbers[static_cast<std::size_t>(label)] = value;
  }
  void suspect(std::int64_t label, std::string_view evidence) override {
    require_class(label);
    verdict_["suspects"].push_back({{"label", label}, {"evidence", base::valid_utf8(evidence)}});
  }
  void inconclusive(std::string_view reason) override {
    verdict_["reason"] = base::valid_utf8(reason);
  }

  [[nodiscard]] nlohmann::json json() {
    const bool conclusive = !verdict_.contains("reason");
    if (conclusive && !verdict_.contains("score"))
      throw Error("a detector gave neither a score nor a reason for having none");
    verdict_["suspicious"] =
        conclusive ? nlohmann::json(verdict_["score"] >= verdict_["threshold"]) : nullptr;
    return verdict_;
  }

 private:
  void require_class(std::int64_t label) const {
    if (label < 0 || label >= classes_)
      throw Error(fmt::format("a detector named class {}, but the classes are 0 to {}", label,
                              classes_ - 1));
  }

  std::int64_t classes_;
  nlohmann::json verdict_ = {{"suspects", nlohmann::json::array()},
                             {"classes", nlohmann::json::object()}};
};

bool same_weights(const Classifier& a, const Classifier& b) {
  const auto x = a.state(), y = b.state();
  return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                    [](const auto& p, const auto& q) { return p.second.equal(q.second); });
}

nlohmann::json verdict_of(const PluginObject& plugin, StageContext& ctx, Classifier& model,
                          const DefenderData& data) {
  Verdict verdict(model.classes());
  return call(plugin, "detect", ctx, [&] {
    auto* detector = static_cast<ModelDetector*>(plugin.as<Defense>().query(ModelDetector::kId));
    if (detector == nullptr)
      throw Error("its manifest says that it judges models, but it offers no ModelDetector",
                  "return it from Defense::query");
    detector->detect(ctx, model, data, verdict);
    return verdict.json();
  });
}

}  // namespace

Stage defend(const DefenseInputs& inputs, const StageServices& services) {
  // One sequence of draws for all defenses, so that they get the same batches, too.
  StageContext ctx(services.label, seed_for(inputs.seed, "defense"), inputs.compute,
                   inputs.task->augmentation, services.observer, services.interrupted);
  ctx.keep(services.checkpoints);
  set_model(ctx, inputs);
  const PluginObject defense(inputs.defense.use, ctx.warnings());
  Given given(inputs);
  Classifier& model = given.model;

  Measurements measurements(ctx, &inputs.task->data.test, [&] { return inputs.triggered; });
  // Without a new head the weights are those that the model's stage measured.
  measurements.before_training(
      model, inputs.defense.use.parameters["epochs"].value_or(std::int64_t{0}),
      inputs.scenario == recipe::Scenario::standalone ? inputs.undefended->row["metrics"]
                                                      : nlohmann::json());
  measurements.follow(model, inputs.measure_every);
  call(defense, "run", ctx, [&] { defense.as<Defense>().run(ctx, model, given.data()); });
  model.set_precision(Precision::run);  // all rows are measured in the same

  Stage stage;
  stage.row = {{"name", services.label.name},
               {"plugin", inputs.defense.use.name()},
               {"given", given.counts()}};
  stage.row.update(measurements.after_training(model));
  stage.row["extra"] = ctx.metrics();
  if (given.training) {  // else it knows other images than the poisoned
    const NamedTensors& poison = inputs.undefended->poison;
    const auto& scored = ctx.poison_scores();
    if (ctx.flagged().defined())
      stage.row["detection"] =
          detection(positions_in(*given.training, ctx.flagged()), poison, given.training->size());
    if (scored.scores.defined())
      stage.row["detection"].update(call(defense, "score_poison", ctx, [&] {
        return detection_by_score(positions_in(*given.training, scored.indices), scored.scores,
                                  poison, given.training->size());
      }));
  }
  stage.row["cost"] = ctx.cost().stop();
  stage.epochs = ctx.epochs();
  stage.model = {model.state(), record_of(model)};
  stage.artifacts = ctx.artifacts();
  stage.pictures = ctx.pictures();
  if (inputs.triggered == nullptr)
    stage.artifacts.emplace_back(kPredictions,
                                 predictions_of(ctx.trainer(), model, inputs.task->data.test));
  return stage;
}

Stage detect(const DefenseInputs& inputs, const StageServices& services) {
  StageContext ctx(services.label, seed_for(inputs.seed, "detector"), inputs.compute,
                   inputs.task->augmentation, services.observer, services.interrupted);
  ctx.keep(services.checkpoints);
  set_model(ctx, inputs);
  const PluginObject plugin(inputs.defense.use, ctx.warnings());
  Given given(inputs);
  const Classifier before(given.model);
  Stage stage;
  const auto& manifest = inputs.defense.use.plugin->manifest;
  if (manifest.judges_models())
    stage.row["verdict"] = verdict_of(plugin, ctx, given.model, given.data());
  // Nobody knows the trigger of a model from elsewhere.
  if (manifest.scores_inputs() && inputs.triggered != nullptr)
    stage.row["inputs"] = score_inputs(plugin, ctx, given.model, given.data(), inputs);
  if (!same_weights(before, given.model))
    call(plugin, "detect", ctx, [] { throw Error("the detector changed the model"); });
  stage.row.update({{"name", services.label.name},
                    {"plugin", inputs.defense.use.name()},
                    {"given", given.counts()},
                    {"extra", ctx.metrics()},
                    {"cost", ctx.cost().stop()}});
  stage.epochs = nlohmann::json::array();
  stage.artifacts = ctx.artifacts();
  stage.pictures = ctx.pictures();
  return stage;
}

}  // namespace backstop::engine
