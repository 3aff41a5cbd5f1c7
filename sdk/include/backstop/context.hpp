// The services that the host offers to a plugin during one call.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "backstop/abi.h"
#include "backstop/error.hpp"
#include "backstop/image_set.hpp"
#include "backstop/model.hpp"
#include "backstop/trainer.hpp"

namespace backstop {
inline namespace v1 {

enum class LogLevel : std::uint32_t { debug = 0, info = 1, warning = 2 };

/// What every plugin but a scheduler is given. Implemented by the host. Valid until the plugin's
/// function that received it returns, and so is every object that it hands out. [run thread]: the
/// thread on which the host called the plugin; members marked [any thread] may be called on others,
/// also at the same time. Context is derived from it, so it never grows: new services are found by
/// query().
class Services {
 public:
  /// This attack's, defense's or dataset's own random generator, on the CPU, seeded from the
  /// recipe's seed and the plugin's place in the recipe. Use it for every draw, and never seed
  /// LibTorch's global generators. [run thread]
  [[nodiscard]] virtual at::Generator& generator() noexcept = 0;
  /// The minor version of the host's ABI, at least the one that the plugin was built for.
  /// [any thread]
  [[nodiscard]] virtual std::uint32_t abi_minor() const noexcept = 0;
  /// Whether the run was interrupted. Ask at least once per batch. [any thread]
  [[nodiscard]] virtual bool cancelled() const noexcept = 0;
  /// Logs a line of text. [run thread]
  virtual void log(LogLevel level, std::string_view message) noexcept = 0;
  /// Reports that `done` of `total` units of `what` ("images trained") are done, for a progress
  /// bar. [run thread]
  virtual void progress(std::int64_t done, std::int64_t total, std::string_view what) noexcept = 0;
  /// Finds an additional interface by its identifier; null when there is none. [run thread]
  virtual void* query(std::string_view interface_id) noexcept = 0;
  // -- never append: Context follows --

  /// Throws Cancelled when the run was interrupted.
  void stop_if_cancelled() const {
    if (cancelled()) throw Cancelled();
  }

 protected:
  ~Services() = default;
};

/// What an attack or a defense is given beyond Services. Implemented by the host; valid as they are.
/// [run thread]
class Context : public Services {
 public:
  /// [run thread]
  [[nodiscard]] virtual Trainer& trainer() noexcept = 0;
  /// Records a number ("anomaly_index") in metrics.jsonl and results.json. [run thread]
  virtual void metric(std::string_view key, double value) = 0;
  /// Records a tensor in artifacts.safetensors. Vectors NAME.x and NAME.y are drawn as a curve.
  /// [run thread]
  virtual void artifact(std::string_view name, const at::Tensor& tensor) = 0;
  /// Reports the training images that the defense takes for poisoned, by `indices`: int64 [k],
  /// entries of ImageSet::indices. The host counts true and false positives. [run thread]
  virtual void flag_poison(const at::Tensor& indices) = 0;
  /// Reports how suspicious training images are: `scores`, float [k], finite, higher for an image
  /// that is more likely poisoned, of the images `indices`, int64 [k], entries of
  /// ImageSet::indices, each at most once. The host computes the AUROC over them, which needs no
  /// threshold. Call it once, with or without flag_poison. [run thread]
  virtual void score_poison(const at::Tensor& indices, const at::Tensor& scores) = 0;

  /// The images of `set` at `positions` (int64 [m]) as a new set, which keeps their indices.
  /// [run thread]
  virtual const ImageSet& subset(const ImageSet& set, const at::Tensor& positions) = 0;
  /// A set of images that the plugin made, float [n, C, H, W] in [0, 1], which are rounded to 8
  /// bits, with labels int64 [n] in 0 .. classes-1 of the dataset. [run thread]
  virtual const ImageSet& image_set(const at::Tensor& images, const at::Tensor& labels) = 0;
  /// An independent copy of `model`. It is not measured while it trains. [run thread]
  virtual Model& clone(const Model& model) = 0;
  /// `tensor`, moved to the run's device if it is not there. [run thread]
  virtual at::Tensor to_device(const at::Tensor& tensor) = 0;
  /// A model of the recipe's architecture for the dataset's images and classes, with weights drawn
  /// from `generator`. It is not measured while it trains. [run thread]
  virtual Model& new_model(at::Generator& generator) = 0;
  /// Such a model with the weights of a safetensors file, like those that a run writes to `models`.
  /// Throws when the file is missing or damaged, or holds another architecture. [run thread]
  virtual Model& load_model(std::string_view path) = 0;
  /// Images meant for people: float [k, C, H, W] in [0, 1], of the dataset's size. They become a
  /// row of the run's picture, below the true trigger. `k` may differ between rows. [run thread]
  virtual void picture(std::string_view name, const at::Tensor& images) = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~Context() = default;
};

/// Receives what an attack saves. Implemented by the host; valid during Attack::save. [run thread]
class StateWriter {
 public:
  /// Saves a tensor of any shape and device. Throws Error if `name` was saved already. [run thread]
  virtual void tensor(std::string_view name, const at::Tensor& value) = 0;

 protected:
  ~StateWriter() = default;
};

/// Gives back what was saved, in another process. Implemented by the host; valid during
/// Attack::load. [run thread]
class StateReader {
 public:
  /// [run thread]
  [[nodiscard]] virtual bool has(std::string_view name) const = 0;
  /// The saved tensor, on the CPU. Throws Error if there is none of that name. [run thread]
  [[nodiscard]] virtual at::Tensor tensor(std::string_view name) const = 0;

 protected:
  ~StateReader() = default;
};

}  // namespace v1
}  // namespace backstop
