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

/// One layer with its live tensors: writing to them (without gradient mode) changes the model.
struct Layer {
  std::string_view name;  ///< as in a state dict, without the tensor: "layer1.0.conv1"
  LayerKind kind = LayerKind::convolution;
  at::Tensor weight;
  at::Tensor bias;          ///< undefined where the layer has none
  at::Tensor running_mean;  ///< batch_norm only
  at::Tensor running_var;   ///< batch_norm only
};

/// The head is the last linear layer; the body is everything before it.
enum class Part : std::uint32_t { none = 0, head = 1, body = 2, whole = 3 };

enum class BatchNormMode : std::uint32_t {
  normal = 0,             ///< follows set_training
  frozen_statistics = 1,  ///< never updates running statistics, and normalises with them
  frozen = 2              ///< that, and its weight and bias do not learn
};

/// Receives what flows through a model during Model::observe.
class ActivationSink {
 public:
  /// `map` is float32 or bfloat16 [n, c, h, w] (a stage), with its graph when gradient mode is on.
  virtual void activation(std::string_view stage, const at::Tensor& map) = 0;

 protected:
  ~ActivationSink() = default;
};

/// Implemented by the host. Images are float32 [n, C, H, W] in [0, 1]: the model normalises them
/// itself, so gradients with respect to images are in pixel units. Precision, memory format and
/// device are the host's business. [run thread]
class Model {
 public:
  /// Logits, float32 [n, classes].
  virtual at::Tensor forward(const at::Tensor& images) = 0;
  /// The same, and every stage's output goes to `sink` on the way: one forward pass.
  virtual at::Tensor observe(const at::Tensor& images, ActivationSink& sink) = 0;
  /// The head's input, float32 [n, feature_size].
  virtual at::Tensor features(const at::Tensor& images) = 0;
  /// The head alone: features float32 [n, feature_size] to logits float32 [n, classes].
  virtual at::Tensor classify(const at::Tensor& features) = 0;

  /// Names that observe() reports, from the input to the output; empty when the model has none.
  virtual std::span<const std::string_view> stages() const = 0;
  /// Every layer with weights, from the input to the output; valid until the head is replaced.
  virtual std::span<const Layer> layers() = 0;
  virtual std::int64_t classes() const noexcept = 0;
  virtual std::int64_t feature_size() const noexcept = 0;

  virtual void set_training(bool training) = 0;
  virtual bool training() const noexcept = 0;
  /// Which parameters ask for gradients. A new model: whole.
  virtual void set_trainable(Part part) = 0;
  virtual void set_batch_norm(BatchNormMode mode) = 0;
  /// Draws the part's weights anew, with the architecture's own initialisation.
  virtual void reset(Part part, at::Generator& generator) = 0;
  /// A new, freshly drawn head for `classes` classes.
  virtual void replace_head(std::int64_t classes, at::Generator& generator) = 0;
  /// Silences channels for good: `keep` is bool [channels], of a convolution's output, or of the
  /// head's input. Their weights become zero and are held there by Trainer::fit.
  virtual void mask_channels(std::string_view layer, const at::Tensor& keep) = 0;
  /// Takes over weights, statistics and masks of a model of the same architecture and size.
  virtual void copy_from(const Model& other) = 0;
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view interface_id) noexcept = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~Model() = default;
};

}  // namespace v0
}  // namespace backstop
