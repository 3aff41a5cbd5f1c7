// An image classifier (or encoder) as a plugin sees it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string_view>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "backstop/abi.h"
#include "backstop/struct_size.hpp"

namespace backstop {
inline namespace v1 {

/// Later hosts may give other kinds: skip layers of a kind that you do not know.
enum class LayerKind : std::uint32_t { convolution = 0, batch_norm = 1, linear = 2 };

/// One layer with its live tensors: writing to them under a NoGradGuard changes the model. Fields
/// that say "convolution" or "batch_norm" keep their defaults in layers of another kind. A
/// TorchScript archive does not tell epsilon, groups, stride, padding and dilation: there they are
/// 1e-5, 1, 1, 0 and 1 whatever the network does.
struct Layer {
  StructSize<Layer> struct_size;
  LayerKind kind = LayerKind::convolution;
  std::string_view name;      ///< as in a state dict, without the tensor's name: "layer1.0.conv1"
  at::Tensor weight;          ///< convolution: [out, in / groups, height, width]; linear: [out, in]
  at::Tensor bias;            ///< undefined if the layer has none
  at::Tensor running_mean;    ///< batch_norm
  at::Tensor running_var;     ///< batch_norm
  double epsilon = 0;         ///< batch_norm: what is added to the variance
  std::int64_t groups = 1;    ///< convolution
  std::int64_t stride = 1;    ///< convolution, pixels down; all built-in networks: the same across
  std::int64_t padding = 0;   ///< convolution, pixels at each side, as for `stride`
  std::int64_t dilation = 1;  ///< convolution, as for `stride`
};

/// A part of a model. The head is the last linear layer; the body is everything before it.
enum class Part : std::uint32_t {
  none = 0,
  head = 1,
  body = 2,
  whole = 3,
  /// In TrainingOptions::trainable only: what requires gradients when fit() is called, so that a
  /// plugin can choose layers with Layer::weight.set_requires_grad().
  chosen = 4
};

/// What batch normalization does while a model trains.
enum class BatchNormMode : std::uint32_t {
  normal = 0,             ///< follows Model::set_training, if anything of the body is trained
  frozen_statistics = 1,  ///< normalizes with its running statistics, and never updates them
  frozen = 2              ///< the same, and its weight and bias are not trained
};

/// The precision that a model computes with.
enum class Precision : std::uint32_t {
  run = 0,     ///< what the recipe chose: float32, or bfloat16 with float32 weights
  float32 = 1  ///< for what bfloat16 is too coarse for, like an implicit gradient
};

/// Receives the feature maps of a model during Model::observe, and may replace them. Implemented by
/// plugins; the model does not keep the sink. [run thread]
class ActivationSink {
 public:
  /// `map` is the output of `stage`, one of Model::stages: float32 or bfloat16, [n, c, h, w] in
  /// convolutional networks, [n, tokens, c] in networks of tokens, with its graph when gradient
  /// mode is on. What is returned goes on from there: `map` itself, or a tensor of its shape and
  /// type, whose graph gradients pass through. [run thread]
  virtual at::Tensor activation(std::string_view stage, const at::Tensor& map) = 0;
  /// Finds an additional interface by its identifier; null when there is none. [run thread]
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  ActivationSink() = default;
  ActivationSink(const ActivationSink&) = default;
  ActivationSink& operator=(const ActivationSink&) = default;
  ~ActivationSink() = default;
};

class Model;

/// The layers of a model, by index or in a loop. Each is a Layer of its own, with the model's
/// tensors, which is read when it is asked for.
class Layers {
 public:
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Layer;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = Layer;
    Iterator(Model& model, std::size_t index) : model_(&model), index_(index) {}
    inline Layer operator*() const;
    Iterator& operator++() {
      ++index_;
      return *this;
    }
    bool operator==(const Iterator& other) const { return index_ == other.index_; }
    bool operator!=(const Iterator& other) const { return index_ != other.index_; }

   private:
    Model* model_;
    std::size_t index_;
  };

  explicit inline Layers(Model& model);
  [[nodiscard]] inline std::size_t size() const;
  [[nodiscard]] inline Layer operator[](std::size_t index) const;
  [[nodiscard]] Layer front() const { return (*this)[0]; }
  [[nodiscard]] Layer back() const { return (*this)[size() - 1]; }
  [[nodiscard]] Iterator begin() const { return {*model_, 0}; }
  [[nodiscard]] Iterator end() const { return {*model_, size()}; }

 private:
  Model* model_;
};

/// Implemented by the host. Images are float32 [n, C, H, W] in [0, 1]: the model normalizes them
/// itself, so gradients with respect to images are in pixel units. The host takes care of
/// precision, memory format and device. Valid until the call into the plugin returns.
/// [run thread]
class Model {
 public:
  /// Logits, float32 [n, classes]. [run thread]
  virtual at::Tensor forward(const at::Tensor& images) = 0;
  /// The same logits, and `sink` receives the output of every stage on the way, in one forward
  /// pass, and may replace it. Throws Error where the network is a script (TorchScript) and the sink
  /// returns another tensor: a script's stages can be seen but not replaced. [run thread]
  virtual at::Tensor observe(const at::Tensor& images, ActivationSink& sink) = 0;
  /// The head's input, float32 [n, feature_size]. [run thread]
  virtual at::Tensor features(const at::Tensor& images) = 0;
  /// The head alone: features float32 [n, feature_size] to logits float32 [n, classes].
  /// [run thread]
  virtual at::Tensor classify(const at::Tensor& features) = 0;

  /// The names of the stages that observe() reports, from input to output; empty if the model has
  /// no feature maps to report. [run thread]
  virtual std::span<const std::string_view> stages() const = 0;
  /// The number of layers with weights. [run thread]
  virtual std::int64_t layer_count() = 0;
  /// Fills in the fields of `layer` that its struct_size has. `index` is in 0 .. layer_count()-1,
  /// from input to output; in a TorchScript archive, as the layers are registered. The tensors and
  /// the name are valid until the head is replaced. Throws Error for another index. Plugins read
  /// Model::layers(). [run thread]
  virtual void read_layer(std::int64_t index, Layer& layer) = 0;
  /// [run thread]
  virtual std::int64_t classes() const noexcept = 0;
  /// The number of the head's inputs. [run thread]
  virtual std::int64_t feature_size() const noexcept = 0;

  /// Switches between training (batch statistics) and evaluation mode (running statistics).
  /// [run thread]
  virtual void set_training(bool training) = 0;
  /// [run thread]
  virtual bool training() const noexcept = 0;
  /// Chooses which parameters require gradients. Those of a new model all do. Part::chosen changes
  /// nothing, and from then on the plugin alone chooses. [run thread]
  virtual void set_trainable(Part part) = 0;
  /// [run thread]
  virtual void set_batch_norm(BatchNormMode mode) = 0;
  /// Draws new weights for the part from `generator`, with the architecture's own initialization.
  /// [run thread]
  virtual void reset(Part part, at::Generator& generator) = 0;
  /// Replaces the head by a newly initialized one for `classes` classes. [run thread]
  virtual void replace_head(std::int64_t classes, at::Generator& generator) = 0;
  /// Silences channels permanently: those of the output of the convolution `layer`, or, where
  /// `layer` is the head, those of its input. `keep` is bool [channels], false for a channel to
  /// silence; what was silenced before remains so. The weights of a silenced channel, and its bias
  /// in the convolution, become zero, and Trainer::fit keeps them zero. What a batch normalization
  /// behind it adds stays. [run thread]
  virtual void mask_channels(std::string_view layer, const at::Tensor& keep) = 0;
  /// Copies the weights, statistics and masks of a model with the same architecture and size.
  /// [run thread]
  virtual void copy_from(const Model& other) = 0;
  /// Chooses what later forward passes compute with, also those of Trainer. See PrecisionScope.
  /// [run thread]
  virtual void set_precision(Precision precision) = 0;
  /// [run thread]
  [[nodiscard]] virtual Precision precision() const noexcept = 0;
  /// Finds an additional interface by its identifier; null when there is none. [run thread]
  virtual void* query(std::string_view interface_id) noexcept = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

  /// Every layer with weights, from input to output; valid until the head is replaced.
  [[nodiscard]] Layers layers() { return Layers(*this); }

 protected:
  ~Model() = default;
};

inline Layers::Layers(Model& model) : model_(&model) {}

inline std::size_t Layers::size() const {
  return static_cast<std::size_t>(model_->layer_count());
}

inline Layer Layers::operator[](std::size_t index) const {
  Layer layer;
  model_->read_layer(static_cast<std::int64_t>(index), layer);
  return layer;
}

inline Layer Layers::Iterator::operator*() const {
  return Layers(*model_)[index_];
}

/// A model computes in this precision while the scope lives.
class PrecisionScope {
 public:
  PrecisionScope(Model& model, Precision precision) : model_(model), before_(model.precision()) {
    model.set_precision(precision);
  }
  PrecisionScope(const PrecisionScope&) = delete;
  PrecisionScope& operator=(const PrecisionScope&) = delete;
  ~PrecisionScope() { model_.set_precision(before_); }

 private:
  Model& model_;
  Precision before_;
};

}  // namespace v1
}  // namespace backstop
