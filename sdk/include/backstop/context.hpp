// What the host offers to a plugin during one call.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "backstop/error.hpp"
#include "backstop/image_set.hpp"
#include "backstop/model.hpp"
#include "backstop/trainer.hpp"

namespace backstop {
inline namespace v0 {

enum class LogLevel : std::uint32_t { debug = 0, info = 1, warning = 2 };

/// Implemented by the host; valid until the call that received it returns, and so is every object
/// that it hands out.
class Context {
 public:
  /// The stage's own source of randomness, on the CPU, seeded from the recipe's seed and the
  /// stage's place: use it for every draw, and never seed LibTorch's global generators.
  [[nodiscard]] virtual at::Generator& generator() noexcept = 0;
  [[nodiscard]] virtual Trainer& trainer() noexcept = 0;
  /// Whether the run was interrupted: look at least once a batch. [any thread]
  [[nodiscard]] virtual bool cancelled() const noexcept = 0;
  virtual void log(LogLevel level, std::string_view message) noexcept = 0;  ///< [any thread]
  /// `done` of `total` units of `what`; shown on terminals. [any thread]
  virtual void progress(std::int64_t done, std::int64_t total, std::string_view what) noexcept = 0;

  /// A number for the stage's record ("anomaly_index"), kept in metrics.jsonl and results.json.
  virtual void metric(std::string_view key, double value) = 0;
  /// A tensor for the stage's record, kept in artifacts.safetensors.
  virtual void artifact(std::string_view name, const at::Tensor& tensor) = 0;
  /// A detection's verdict: `indices` (int64 [k], see ImageSet::indices) of the training images
  /// that the defense takes for poisoned. The host counts true and false positives.
  virtual void flag_poison(const at::Tensor& indices) = 0;

  /// The images of `set` at `positions` (int64 [m]), as a set of their own.
  virtual const ImageSet& subset(const ImageSet& set, const at::Tensor& positions) = 0;
  /// A set of images that the plugin made: float [n, C, H, W] in [0, 1], rounded to 8 bits, and
  /// labels int64 [n].
  virtual const ImageSet& image_set(const at::Tensor& images, const at::Tensor& labels) = 0;
  /// A copy of `model` that shares nothing with it; never measured while it trains.
  virtual Model& clone(const Model& model) = 0;
  /// `tensor` on the run's device.
  virtual at::Tensor to_device(const at::Tensor& tensor) = 0;
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view interface_id) noexcept = 0;
  /// A model of the recipe's architecture for the dataset's images and classes, drawn from
  /// `generator`; never measured while it trains.
  virtual Model& new_model(at::Generator& generator) = 0;
  /// Such a model with the weights of a safetensors file, as a run leaves them in `models`. Throws
  /// when the file is not there, is damaged, or holds another architecture.
  virtual Model& load_model(std::string_view path) = 0;
  /// Images for a person to look at, float [k, C, H, W] in [0, 1] of the dataset's size: a row of
  /// the stage's picture, which shows the true trigger above them. `k` may differ between rows.
  virtual void picture(std::string_view name, const at::Tensor& images) = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

  /// Throws Cancelled when the run was interrupted.
  void stop_if_cancelled() const {
    if (cancelled()) throw Cancelled();
  }

 protected:
  ~Context() = default;
};

/// Where a plugin saves what it has learnt. Implemented by the host.
class StateWriter {
 public:
  /// `name` is unique within the plugin's state.
  virtual void tensor(std::string_view name, const at::Tensor& value) = 0;

 protected:
  ~StateWriter() = default;
};

/// Where it finds it again, in another process. Implemented by the host.
class StateReader {
 public:
  [[nodiscard]] virtual bool has(std::string_view name) const = 0;
  /// On the CPU. Throws Error when there is none of that name.
  [[nodiscard]] virtual at::Tensor tensor(std::string_view name) const = 0;

 protected:
  ~StateReader() = default;
};

}  // namespace v0
}  // namespace backstop
