// The host's training and evaluation loops, and the points where a plugin can take part.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/image_set.hpp"
#include "backstop/model.hpp"
#include "backstop/params.hpp"

namespace backstop {
inline namespace v0 {

/// One batch of training images, on the run's device.
struct Batch {
  at::Tensor images;     ///< float32 [n, C, H, W] in [0, 1]
  at::Tensor labels;     ///< int64 [n]
  at::Tensor positions;  ///< int64 [n] on the CPU: positions in the set given to fit()
  std::int64_t epoch = 0;
};

/// The plugin's part of a training step; the host does the rest. Implemented by plugins whose loss
/// is not plain cross-entropy (NAD, ABL, WaNet, Input-aware, BadEncoder, SAM). For every batch the
/// host calls loss, before_update and after_update, and after every epoch after_epoch. [run thread]
class TrainingStep {
 public:
  /// The loss of one batch, a float scalar with its graph. The host calls backward() on it.
  virtual at::Tensor loss(Model& model, const Batch& batch) = 0;
  /// Called after backward(), before the optimizer updates the weights.
  virtual void before_update(Model&) {}
  /// Called after the optimizer has updated the weights.
  virtual void after_update(Model&) {}
  /// Called after the last batch of `epoch` (from 0).
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
  std::int64_t batch_size = 128;         ///< the last batch of an epoch may be smaller
  const Scheduler* scheduler = nullptr;  ///< required
  TrainingStep* step = nullptr;          ///< null: cross-entropy
  OptimizerOptions optimizer;
  BatchNormMode batch_norm = BatchNormMode::normal;
  /// Whether images are randomly cropped and flipped, as the dataset says, before they reach `step`
  /// or the model; false: not at all, or by the plugin in `step`.
  bool augment = true;
  bool reserved[3] = {};
};

/// Implemented by the host, which takes care of data movement, precision, progress, cost and
/// cancellation: every call throws Cancelled soon after the run is interrupted. When fit() trains
/// the model that the plugin was called for, the host measures the model after each epoch, which
/// does not count towards the plugin's cost. [run thread]
class Trainer {
 public:
  /// Trains `model` in place and leaves it in evaluation mode. Throws Error when the loss is no
  /// longer finite, when `images` is empty, or when the options have no scheduler.
  virtual void fit(Model& model, const ImageSet& images, const TrainingOptions& options) = 0;
  /// The logits of all images, float32 [size, classes] on the run's device, computed in evaluation
  /// mode and without a graph.
  virtual at::Tensor logits(Model& model, const ImageSet& images) = 0;
  /// The features of all images, float32 [size, feature_size], computed in the same way.
  virtual at::Tensor features(Model& model, const ImageSet& images) = 0;
  /// The share of images, in 0 .. 1, whose largest logit is that of their label.
  virtual double accuracy(Model& model, const ImageSet& images) = 0;
  /// The images, randomly cropped and flipped as the dataset says, with draws from
  /// Context::generator: float32 [n, C, H, W] in [0, 1] to the same shape. Padding is black.
  /// Gradients pass through.
  virtual at::Tensor augment(const at::Tensor& images) = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~Trainer() = default;
};

}  // namespace v0
}  // namespace backstop
