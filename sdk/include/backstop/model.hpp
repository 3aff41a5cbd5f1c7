// An image classifier (or encoder) as a plugin sees it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace backstop {
inline namespace v0 {

enum class LayerKind : std::uint32_t { convolution = 0, batch_norm = 1, linear = 2 };

/// One layer with its live tensors: writing to them under a NoGradGuard changes the model.
struct Layer {
  std::string_view name;  ///< as in a state dict, without the tensor's name: "layer1.0.conv1"
  LayerKind kind = LayerKind::convolution;
  at::Tensor weight;
  at::Tensor bias;          ///< undefined if the layer has none
  at::Tensor running_mean;  ///< batch_norm only
  at::Tensor running_var;   ///< batch_norm only
};

/// A part of a model. The head is the last linear layer; the body is everything before it.
enum class Part : std::uint32_t { none = 0, head = 1, body = 2, whole = 3 };

/// What batch normalization does while a model trains.
enum class BatchNormMode : std::uint32_t {
  normal = 0,             ///< follows Model::set_training
  frozen_statistics = 1,  ///< normalizes with its running statistics, and never updates them
  frozen = 2              ///< the same, and its weight and bias are not trained
};

/// Receives the feature maps of a model during Model::observe. Implemented by plugins; the model
/// does not keep the sink. [run thread]
class ActivationSink {
 public:
  /// `map` is the output of `stage`, one of Model::stages: float32 or bfloat16 [n, c, h, w], with
  /// its graph when gradient mode is on.
  virtual void activation(std::string_view stage, const at::Tensor& map) = 0;

 protected:
  ~ActivationSink() = default;
};

/// Implemented by the host. Images are float32 [n, C, H, W] in [0, 1]: the model normalizes them
/// itself, so gradients with respect to images are in pixel units. The host takes care of
/// precision, memory format and device. Valid until the call into the plugin returns.
/// [run thread]
class Model {
 public:
  /// Logits, float32 [n, classes].
  virtual at::Tensor forward(const at::Tensor& images) = 0;
  /// The same logits, and `sink` receives the output of every stage on the way, in one forward
  /// pass.
  virtual at::Tensor observe(const at::Tensor& images, ActivationSink& sink) = 0;
  /// The head's input, float32 [n, feature_size].
  virtual at::Tensor features(const at::Tensor& images) = 0;
  /// The head alone: features float32 [n, feature_size] to logits float32 [n, classes].
  virtual at::Tensor classify(const at::Tensor& features) = 0;

  /// The names of the stages that observe() reports, from input to output; empty if the model has
  /// no feature maps to report.
  virtual std::span<const std::string_view> stages() const = 0;
  /// Every layer with weights, from input to output; valid until the head is replaced.
  virtual std::span<const Layer> layers() = 0;
  virtual std::int64_t classes() const noexcept = 0;
  virtual std::int64_t feature_size() const noexcept = 0;  ///< the number of the head's inputs

  /// Switches between training (batch statistics) and evaluation mode (running statistics).
  virtual void set_training(bool training) = 0;
  virtual bool training() const noexcept = 0;
  /// Chooses which parameters require gradients. Those of a new model all do.
  virtual void set_trainable(Part part) = 0;
  virtual void set_batch_norm(BatchNormMode mode) = 0;
  /// Draws new weights for the part from `generator`, with the architecture's own initialization.
  virtual void reset(Part part, at::Generator& generator) = 0;
  /// Replaces the head by a newly initialized one for `classes` classes.
  virtual void replace_head(std::int64_t classes, at::Generator& generator) = 0;
  /// Silences channels permanently: those of the output of the convolution `layer`, or, where
  /// `layer` is the head, those of its input. `keep` is bool [channels], false for a channel to
  /// silence. The weights of a silenced channel become zero, and Trainer::fit keeps them zero.
  virtual void mask_channels(std::string_view layer, const at::Tensor& keep) = 0;
  /// Copies the weights, statistics and masks of a model with the same architecture and size.
  virtual void copy_from(const Model& other) = 0;
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view interface_id) noexcept = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~Model() = default;
};

}  // namespace v0
}  // namespace backstop
