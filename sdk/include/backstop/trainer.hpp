// Training and evaluation loops of the host, with the places where a plugin can take part.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/image_set.hpp"
#include "backstop/model.hpp"
#include "backstop/params.hpp"

namespace backstop {
inline namespace v0 {

/// One batch on its way to the model, on the run's device.
struct Batch {
  at::Tensor images;     ///< float32 [n, C, H, W] in [0, 1]
  at::Tensor labels;     ///< int64 [n]
  at::Tensor positions;  ///< int64 [n] on the CPU: positions in the set that fit() was given
  std::int64_t epoch = 0;
};

/// What a plugin does in a training step; everything else stays with the host. Implemented by
/// plugins whose loss is not plain cross-entropy (NAD, ABL, WaNet, Input-aware, BadEncoder, SAM).
class TrainingStep {
 public:
  /// The loss of one batch, a scalar with a graph. The host calls backward() on it.
  virtual at::Tensor loss(Model& model, const Batch& batch) = 0;
  /// After backward, before the optimiser moves the weights.
  virtual void before_update(Model&) {}
  /// After the optimiser moved the weights.
  virtual void after_update(Model&) {}
  virtual void after_epoch(Model&, std::int64_t /*epoch*/) {}
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  TrainingStep() = default;
  TrainingStep(const TrainingStep&) = default;
  TrainingStep& operator=(const TrainingStep&) = default;
  ~TrainingStep() = default;
};

/// How Trainer::fit trains.
struct TrainingOptions {
  std::uint32_t struct_size = sizeof(TrainingOptions);
  Part trainable = Part::whole;
  std::int64_t epochs = 1;
  std::int64_t batch_size = 128;         ///< the last, smaller batch of an epoch is used too
  const Scheduler* scheduler = nullptr;  ///< required
  TrainingStep* step = nullptr;          ///< null: cross-entropy
  OptimizerOptions optimizer;
  BatchNormMode batch_norm = BatchNormMode::normal;
  bool augment = true;  ///< the dataset's random crop and flip; false: the plugin does it in `step`
  bool reserved[3] = {};
};

/// Implemented by the host. Data movement, precision, progress, cost and cancellation are its
/// business: every call throws Cancelled soon after the run is interrupted. When fit() trains the
/// model that the stage is about, the host measures it after every epoch; that does not count
/// towards the stage's cost. [run thread]
class Trainer {
 public:
  /// Trains `model` in place and leaves it in evaluation mode. Throws Error when the loss is no
  /// longer finite.
  virtual void fit(Model& model, const ImageSet& images, const TrainingOptions& options) = 0;
  /// Logits of all images, float32 [size, classes] on the run's device, in evaluation mode and
  /// without a graph.
  virtual at::Tensor logits(Model& model, const ImageSet& images) = 0;
  /// Likewise the features, float32 [size, feature_size].
  virtual at::Tensor features(Model& model, const ImageSet& images) = 0;
  /// Share of images whose largest logit is their label, in 0 .. 1.
  virtual double accuracy(Model& model, const ImageSet& images) = 0;
  /// The dataset's random crop and flip, drawn from the stage's generator: float32 [n, C, H, W] in
  /// [0, 1] to the same shape. Padding is black. Keeps gradients.
  virtual at::Tensor augment(const at::Tensor& images) = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~Trainer() = default;
};

}  // namespace v0
}  // namespace backstop
