// The host's model: a network with its normalization, precision and device.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backstop/model.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/model/network.hpp"

namespace backstop::engine {

class Classifier final : public Model {
 public:
  /// Weights are drawn from `generator`.
  Classifier(Architecture architecture, const Normalization& normalization, const Compute& compute,
             at::Generator& generator);
  /// A copy that shares nothing with `other`.
  Classifier(const Classifier& other);
  Classifier& operator=(const Classifier&) = delete;
  ~Classifier() = default;

  at::Tensor forward(const at::Tensor& images) override;
  at::Tensor observe(const at::Tensor& images, ActivationSink& sink) override;
  at::Tensor features(const at::Tensor& images) override;
  at::Tensor classify(const at::Tensor& features) override;
  std::span<const std::string_view> stages() const override { return network_->stages(); }
  std::int64_t layer_count() override { return std::ssize(layers_); }
  void read_layer(std::int64_t index, Layer& layer) override;
  std::int64_t classes() const noexcept override { return architecture_.classes; }
  std::int64_t feature_size() const noexcept override { return feature_size_; }
  void set_training(bool training) override;
  bool training() const noexcept override { return training_; }
  void set_trainable(Part part) override;
  void set_batch_norm(BatchNormMode mode) override;
  void reset(Part part, at::Generator& generator) override;
  void replace_head(std::int64_t classes, at::Generator& generator) override;
  void mask_channels(std::string_view layer, const at::Tensor& keep) override;
  void copy_from(const Model& other) override;
  void set_precision(Precision precision) override;
  Precision precision() const noexcept override { return precision_; }
  void* query(std::string_view) noexcept override { return nullptr; }

  /// Normalizes images in [0, 1] for the network: (image - mean) / deviation, in channels-last.
  [[nodiscard]] at::Tensor normalize(const at::Tensor& images) const;
  /// Logits of images that are already normalized, as by ImageStore::batch.
  at::Tensor forward_normalized(const at::Tensor& images);
  at::Tensor features_normalized(const at::Tensor& images);
  [[nodiscard]] const Normalization& normalization() const { return normalization_; }
  [[nodiscard]] const Architecture& architecture() const { return architecture_; }
  [[nodiscard]] const Compute& compute() const { return compute_; }
  /// The parameters that require gradients.
  [[nodiscard]] std::vector<at::Tensor> trainable_parameters() const;
  /// Sets the weights of masked channels to zero again after an optimizer changed them.
  void hold_masks();

  /// Parameters and buffers by name, as in PyTorch; contiguous, on the CPU.
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// All that a training can change, for restore(): parameters, buffers and masks, which of the
  /// parameters are trained, and the modes.
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> snapshot() const;
  /// Throws Error, before it changes anything, when that is no snapshot of such a model.
  void restore(const std::vector<std::pair<std::string, at::Tensor>>& snapshot);

  /// How many numbers among the parameters and buffers are NaN or infinite.
  [[nodiscard]] std::int64_t not_finite() const;
  /// Copies the tensors of these names, or of names that mean the same (common_name()). Throws
  /// HostError(environment), which names some of the tensors that do not fit and the network that
  /// they would fit; `where` names the source.
  void load_state(const std::vector<std::pair<std::string, at::Tensor>>& state,
                  const std::string& where);

 private:
  void settle();  ///< sets memory format, device and layers after tensors were replaced
  void find_layers();
  [[nodiscard]] Part part_of(const std::string& parameter) const;
  /// Whether a parameter of the body is trained.
  [[nodiscard]] bool body_learns() const;
  at::Tensor body_normalized(const at::Tensor& images, ActivationSink* sink);
  at::Tensor logits_normalized(const at::Tensor& images, ActivationSink* sink);
  /// Throws Error if the network has no head; `wish` is what needs one.
  void require_head(std::string_view wish) const;

  Architecture architecture_;
  Normalization normalization_;
  Compute compute_;
  std::shared_ptr<Network> network_;
  at::Tensor mean_, deviation_;  ///< [1, C, 1, 1] on the device
  std::int64_t feature_size_ = 0;
  bool training_ = false;
  Part trainable_ = Part::whole;
  Precision precision_ = Precision::run;
  bool run_bfloat16_;  ///< the run's precision
  BatchNormMode batch_norm_ = BatchNormMode::normal;
  std::vector<std::string> layer_names_;
  std::vector<Layer> layers_;
  std::map<std::string, at::Tensor, std::less<>> masks_;  ///< bool [channels] by layer
};

}  // namespace backstop::engine
