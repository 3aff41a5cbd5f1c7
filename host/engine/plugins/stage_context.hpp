// The Context that plugins see, and what the host keeps of a stage.
#pragma once

#include <cstddef>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "backstop/abi.h"
#include "backstop/attack.hpp"
#include "backstop/context.hpp"
#include "backstop/defense.hpp"
#include "backstop/training_state.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/engine.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/plugins/plugin_object.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/store/checkpoints.hpp"
#include "host/engine/store/safetensors.hpp"
#include "host/engine/train/cost.hpp"
#include "host/engine/train/trainer.hpp"
#include "host/engine/train/work_checkpoint.hpp"

namespace backstop::engine {

/// What the events of a stage are marked with.
struct StageLabel {
  std::string stage;  ///< data, attack, defense
  std::string name;   ///< the row that it makes
};

class StageContext final : public Context, private LoopKeeper {
 public:
  StageContext(StageLabel label, std::uint64_t seed, const Compute& compute,
               const Augmentation& augmentation, RunObserver* observer,
               const std::atomic<int>* interrupted);
  StageContext(const StageContext&) = delete;  // the trainer looks at its members
  StageContext& operator=(const StageContext&) = delete;
  ~StageContext() = default;

  at::Generator& generator() noexcept override { return generator_; }
  HostTrainer& trainer() noexcept override { return trainer_; }
  std::uint32_t abi_minor() const noexcept override { return BACKSTOP_ABI_MINOR; }
  bool cancelled() const noexcept override { return trainer_.cancelled(); }
  void log(LogLevel level, std::string_view message) noexcept override;
  void progress(std::int64_t done, std::int64_t total, std::string_view what) noexcept override;
  // The names must be UTF-8, not empty and not long, and those of artifacts and of pictures differ.
  void metric(std::string_view key, double value) override;
  void artifact(std::string_view name, const at::Tensor& tensor) override;
  void flag_poison(const at::Tensor& indices) override;
  void score_poison(const at::Tensor& indices, const at::Tensor& scores) override;
  const ImageSet& subset(const ImageSet& set, const at::Tensor& positions) override;
  const ImageSet& image_set(const at::Tensor& images, const at::Tensor& labels) override;
  Model& clone(const Model& model) override;
  at::Tensor to_device(const at::Tensor& tensor) override { return send(tensor, compute_.device); }
  /// Finds the LoopKeeper.
  void* query(std::string_view id) noexcept override;
  Model& new_model(at::Generator& generator) override;
  Model& load_model(std::string_view path) override;
  void picture(std::string_view name, const at::Tensor& images) override;

  /// An `epoch` event of the stage, which is then told to the observer.
  void epoch(nlohmann::json event);
  /// Those so far, in order.
  [[nodiscard]] const nlohmann::json& epochs() const { return epochs_; }

  /// Lets the stage go on where `checkpoints` says that it was; null: nothing is kept.
  void keep(Checkpoints* checkpoints);
  [[nodiscard]] Checkpoints* checkpoints() const { return checkpoints_; }
  /// The number of the next piece of work that can be kept, from 0.
  [[nodiscard]] std::size_t begin_work() { return begun_++; }
  /// What the stage has recorded, begun and spent so far, and its generator.
  [[nodiscard]] Checkpoint records();
  /// In place of what there is. Tells the observer the epochs that it does not know yet.
  void restore(const Checkpoint& records);
  /// Tells the observer that work was kept, and `where` it would go on; or that it cannot be.
  void tell_kept(bool resumable, const std::string& where);

  [[nodiscard]] const StageLabel& label() const { return label_; }
  [[nodiscard]] CostMeter& cost() { return cost_; }
  [[nodiscard]] const nlohmann::json& metrics() const { return metrics_; }
  [[nodiscard]] const NamedTensors& artifacts() const { return artifacts_; }
  /// By name, uint8 [k, C, H, W].
  [[nodiscard]] const NamedTensors& pictures() const { return pictures_; }
  /// What flag_poison got; undefined when it was not called.
  [[nodiscard]] const at::Tensor& flagged() const { return flagged_; }
  /// What score_poison got: indices int64 [k] and scores float64 [k]; undefined without a call.
  struct PoisonScores {
    at::Tensor indices, scores;
  };
  [[nodiscard]] const PoisonScores& poison_scores() const { return poison_scores_; }
  /// Says them as warnings of the stage; valid as long as the context.
  [[nodiscard]] WarningSink warnings();
  /// What the plugin's own models, and the classes of its own image sets, are like.
  void set_model(const Architecture& architecture, const Normalization& normalization) {
    architecture_ = architecture;
    normalization_ = normalization;
  }

 private:
  std::int64_t begin(TrainingState& state) override;
  void advance(std::int64_t done, bool over) override;

  StageLabel label_;
  Compute compute_;
  RunObserver* observer_;
  at::Generator generator_;
  CostMeter cost_;
  HostTrainer trainer_;
  Architecture architecture_;
  Normalization normalization_;
  nlohmann::json metrics_ = nlohmann::json::object();
  nlohmann::json epochs_ = nlohmann::json::array();
  NamedTensors artifacts_;
  NamedTensors pictures_;
  at::Tensor flagged_;
  PoisonScores poison_scores_;
  std::list<ImageStore> sets_;
  std::list<Classifier> models_;
  Checkpoints* checkpoints_ = nullptr;
  std::size_t begun_ = 0;
  std::optional<LoopCheckpoint> loop_;  ///< the one that began last
};

/// Calls `function` on behalf of a plugin; see call_plugin. What the plugin left changed is logged.
template <typename Function>
decltype(auto) call(const PluginObject& plugin, std::string_view what, StageContext& ctx,
                    Function&& function) {
  return call_plugin(plugin.entry(), what, ctx.warnings(), std::forward<Function>(function));
}

/// The training set while an attack has it; afterwards, what it did.
class TrainingSetCopy final : public TrainingSetEditor {
 public:
  explicit TrainingSetCopy(const ImageStore& clean);

  const ImageSet& images() const noexcept override { return clean_; }
  void write(const at::Tensor& positions, const at::Tensor& images, const at::Tensor& labels,
             Role role) override;

  /// positions int64 [m], images uint8 [m, C, H, W], labels int64 [m], roles uint8 [m]; by
  /// position.
  [[nodiscard]] NamedTensors record() const;
  /// Whether nothing was written.
  [[nodiscard]] bool empty() const { return positions_.empty(); }
  /// Writes what record() gave. It may come from anybody: throws HostError(environment), which
  /// names `file`, when it does not fit the training set or its poison has other labels than
  /// `threat` states.
  void restore(const NamedTensors& record, const Threat& threat, const std::string& file);

 private:
  const ImageStore& clean_;
  std::vector<bool> changed_;  ///< by position
  std::vector<at::Tensor> positions_, images_, labels_, roles_;
};

/// `clean` with the record's images and labels in place. Its indices are positions, so that a
/// defense's verdicts can be compared with the record.
ImageStore with_poison(const ImageStore& clean, const NamedTensors& record);

class TensorState final : public StateWriter, public StateReader {
 public:
  TensorState() = default;
  explicit TensorState(NamedTensors tensors) : tensors_(std::move(tensors)) {}
  void tensor(std::string_view name, const at::Tensor& value) override;
  bool has(std::string_view name) const override;
  at::Tensor tensor(std::string_view name) const override;
  [[nodiscard]] const NamedTensors& tensors() const { return tensors_; }

 private:
  NamedTensors tensors_;
};

/// What a defense is given, and what it asked for.
class HostDefenderData final : public DefenderData {
 public:
  /// Null: not given.
  HostDefenderData(const ImageStore* clean, const ImageStore* training)
      : clean_(clean), training_(training) {}
  const ImageSet& clean() const override;
  const ImageSet& training() const override;

 private:
  const ImageStore* clean_;
  const ImageStore* training_;
};

/// The tensor of that name; throws HostError(bug) when there is none.
const at::Tensor& tensor_named(const NamedTensors& tensors, std::string_view name);

}  // namespace backstop::engine
