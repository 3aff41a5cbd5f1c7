// The host's training and evaluation loops, and the points where a plugin can take part.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/abi.h"
#include "backstop/image_set.hpp"
#include "backstop/model.hpp"
#include "backstop/params.hpp"
#include "backstop/struct_size.hpp"

namespace backstop {
inline namespace v1 {

/// One batch of training images, on the run's device. Made by the host.
struct Batch {
  StructSize<Batch> struct_size;
  std::uint32_t reserved = 0;
  at::Tensor images;           ///< float32 [n, C, H, W] in [0, 1]
  at::Tensor labels;           ///< int64 [n]
  at::Tensor positions;        ///< int64 [n] on the CPU: positions in the set given to fit()
  std::int64_t epoch = 0;      ///< from 0
  std::int64_t iteration = 0;  ///< from 0, over all epochs
  double rate = 0;             ///< the learning rate of this step
};

/// What TrainingStep::after_epoch wants.
enum class Next : std::uint32_t {
  epoch = 0,  ///< go on, until the options' number of epochs
  stop = 1    ///< end the training after this epoch
};

/// The plugin's part of a training step; the host does the rest. Implemented by plugins whose loss
/// is not plain cross-entropy (NAD, ABL, WaNet, Input-aware, BadEncoder, SAM).
///
/// The host calls before_epoch; then for every batch loss, backward() on what it returns,
/// before_update, the optimizer, and after_update; then after_epoch. During all of them:
///
/// * Gradient mode is on. Work that needs no gradients goes under an at::NoGradGuard, and so does
///   whatever writes to weights.
/// * The model is in training mode. A step that evaluates switches back before it returns.
/// * The gradients of all parameters are undefined when backward() starts. What the optimizer reads
///   is each parameter's `.grad` after before_update returns, so before_update may change it. A
///   parameter whose `.grad` is undefined is not updated.
/// * The loss may be differentiated twice: torch::autograd::grad with create_graph = true works
///   through Model::forward, and so does backward() through its result. It is declared in
///   torch/csrc/autograd/autograd.h.
/// * The graph is gone after backward().
///
/// [run thread]
class TrainingStep {
 public:
  /// The loss of one batch, a float scalar with its graph. The host calls backward() on it.
  /// [run thread]
  virtual at::Tensor loss(Model& model, const Batch& batch) = 0;
  /// Called after backward(), before the optimizer updates the weights. [run thread]
  virtual void before_update(Model&) {}
  /// Called after the optimizer has updated the weights. [run thread]
  virtual void after_update(Model&) {}
  /// Called before the first batch of `epoch` (from 0). [run thread]
  virtual void before_epoch(Model&, std::int64_t /*epoch*/) {}
  /// Called after the last batch of `epoch`, before the host measures the model. Next::stop ends the
  /// training early. [run thread]
  virtual Next after_epoch(Model&, std::int64_t /*epoch*/) { return Next::epoch; }
  /// Tensors of the plugin's own that the same optimizer trains together with the model, at the same
  /// rate: dense float32 leaves that require gradients, on the run's device. fit() asks once, before
  /// the first epoch; the tensors must live until it returns. Each is given once, and none of the
  /// model's. The optimizer's weight decay is for them, too. [run thread]
  [[nodiscard]] virtual std::span<const at::Tensor> parameters() { return {}; }
  /// Finds an additional interface by its identifier; null when there is none. [run thread]
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  TrainingStep() = default;
  TrainingStep(const TrainingStep&) = default;
  TrainingStep& operator=(const TrainingStep&) = default;
  ~TrainingStep() = default;
};

/// How Trainer::fit trains.
struct TrainingOptions {
  StructSize<TrainingOptions> struct_size;
  Part trainable = Part::whole;
  std::int64_t epochs = 1;
  std::int64_t batch_size = 128;         ///< the last batch of an epoch may be smaller
  const Scheduler* scheduler = nullptr;  ///< required
  TrainingStep* step = nullptr;          ///< null: cross-entropy
  BatchNormMode batch_norm = BatchNormMode::normal;
  /// 1: images are randomly cropped and flipped, as the dataset says, before they reach `step` or
  /// the model; 0: not at all, or by the plugin in `step`.
  std::uint32_t augment = 1;
  OptimizerOptions optimizer;
};

/// The options that a recipe gives to a plugin whose manifest has a `[training]` group.
[[nodiscard]] inline TrainingOptions training_options(const Params& params) {
  TrainingOptions options;
  options.epochs = params.integer("epochs");
  options.batch_size = params.integer("batch_size");
  options.scheduler = &params.scheduler("scheduler");
  options.optimizer = params.optimizer("optimizer");
  return options;
}

/// Implemented by the host, which takes care of data movement, precision, progress, cost and
/// cancellation: every call throws Cancelled soon after the run is interrupted. When fit() trains
/// the model that the plugin was called for, the host measures the model after the epochs that the
/// recipe chooses (`measure_every`), which does not count towards the plugin's cost. [run thread]
class Trainer {
 public:
  /// Trains `model` in place and leaves it in evaluation mode, with BatchNormMode::normal, and with
  /// all parameters requiring gradients; after Part::chosen, those that did before. Throws Error when
  /// the loss is no longer finite, when `images` is empty, or when the options have no scheduler.
  /// [run thread]
  virtual void fit(Model& model, const ImageSet& images, const TrainingOptions& options) = 0;
  /// The logits of all images, float32 [size, classes] on the run's device, computed in evaluation
  /// mode and without a graph. [run thread]
  virtual at::Tensor logits(Model& model, const ImageSet& images) = 0;
  /// The features of all images, float32 [size, feature_size], computed in the same way.
  /// [run thread]
  virtual at::Tensor features(Model& model, const ImageSet& images) = 0;
  /// The share of images, in 0 .. 1, whose largest logit is that of their label. [run thread]
  virtual double accuracy(Model& model, const ImageSet& images) = 0;
  /// The images, randomly cropped and flipped as the dataset says, with draws from
  /// Context::generator: float32 [n, C, H, W] in [0, 1] to the same shape. Padding is black.
  /// Gradients pass through. [run thread]
  virtual at::Tensor augment(const at::Tensor& images) = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~Trainer() = default;
};

}  // namespace v1
}  // namespace backstop
