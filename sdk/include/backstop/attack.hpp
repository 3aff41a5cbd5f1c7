// A backdoor attack: puts a trigger on images, into the training set and into the model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/randperm.h>

#include "backstop/abi.h"
#include "backstop/context.hpp"
#include "backstop/error.hpp"
#include "backstop/struct_size.hpp"

namespace backstop {
inline namespace v1 {

/// What the attacker wants, from the recipe's `[attack]` table.
struct Threat {
  StructSize<Threat> struct_size;
  std::uint32_t all_to_all = 0;  ///< 1: the target of class y is (y + 1) mod classes, not `target`
  std::int64_t target = 0;       ///< the target class of triggered images, in 0 .. classes-1
  std::int64_t classes = 0;      ///< of the dataset
  double poison_ratio = 0.1;     ///< share of the training set that the attacker may change, 0 .. 1

  /// The target labels, int64 [n], of triggered images with the true labels `labels`, int64 [n].
  [[nodiscard]] at::Tensor targets(const at::Tensor& labels) const {
    return all_to_all != 0 ? labels.add(1).remainder(classes) : at::full_like(labels, target);
  }

  /// The number of images that the attacker changes among `images`: round(poison_ratio * images).
  /// Throws ParameterError when that is 0.
  [[nodiscard]] std::int64_t poisoned_of(std::int64_t images) const {
    const std::int64_t count = std::llround(poison_ratio * static_cast<double>(images));
    if (count > 0) return count;
    throw ParameterError("a poison_ratio of " + std::to_string(poison_ratio) + " of " +
                             std::to_string(images) + " images is no image",
                         "raise `poison_ratio`");
  }
};

/// What an image gets its trigger for: triggers may differ (in Blended, their strength does). Take a
/// phase of a later host that you do not know for `test`.
enum class Phase : std::uint32_t { train = 0, test = 1 };

/// The role of a changed image in the training set.
enum class Role : std::uint32_t {
  poison = 1,  ///< has the trigger and the target label; a detection is scored against these
  cover = 2,   ///< has the trigger, or something like it, and its true label
};

/// The training set while the attacker can change it. Implemented by the host. [run thread]
class TrainingSetEditor {
 public:
  /// The clean training set, which write() does not change. [run thread]
  [[nodiscard]] virtual const ImageSet& images() const noexcept = 0;
  /// Replaces the images at `positions` (int64 [m]) by `images` (float [m, C, H, W] in [0, 1],
  /// which are rounded to 8 bits as in an image file) and their labels by `labels` (int64 [m]), and
  /// records their role. May be called several times, but only once for each position. Throws
  /// Error for shapes that do not fit, or a position or label out of range. [run thread]
  virtual void write(const at::Tensor& positions, const at::Tensor& images,
                     const at::Tensor& labels, Role role) = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~TrainingSetEditor() = default;
};

/// Implemented by plugins. The host calls prepare, poison, train and save, in this order, without
/// train when it already has the backdoored model's weights; or load, perhaps with save, when it has
/// the attack's state as well. After that, and after every epoch of train, it may call apply any
/// number of times. A dirty-label attack with a fixed trigger only has to
/// implement apply(). [run thread]: the host calls all members on one thread.
class Attack {
 public:
  /// Draws the trigger with ctx.generator(), or learns it from the clean training set. [run thread]
  virtual void prepare(Context&, const Threat&, const ImageSet& /*training_set*/) {}

  /// The images with their trigger: float32 [n, C, H, W] in [0, 1] to the same shape and range.
  /// `images` stays as it is. An image gives the same in every batch and process. [run thread]
  virtual at::Tensor apply(Context& ctx, const at::Tensor& images, Phase phase) = 0;

  /// Changes the training set. By default, round(poison_ratio * size) images, drawn from all
  /// classes, get the trigger and the target label. Throws ParameterError when that is no image.
  /// [run thread]
  virtual void poison(Context& ctx, const Threat& threat, TrainingSetEditor& editor) {
    const ImageSet& set = editor.images();
    const std::int64_t count = threat.poisoned_of(set.size());
    const at::Tensor chosen = at::randperm(set.size(), ctx.generator()).narrow(0, 0, count);
    constexpr std::int64_t kChunk = 1024;
    for (std::int64_t first = 0; first < count; first += kChunk) {
      ctx.stop_if_cancelled();
      const at::Tensor positions = chosen.narrow(0, first, std::min(kChunk, count - first));
      const at::Tensor labels = set.labels().index_select(0, ctx.to_device(positions));
      editor.write(positions, apply(ctx, set.images(positions), Phase::train),
                   threat.targets(labels), Role::poison);
    }
  }

  /// Trains the model on the poisoned training set. By default the host trains it, with the options
  /// of the recipe's `[attack.training]`. Attacks that control training override this; one that
  /// learns its trigger on the way writes nothing in poison() and writes to `editor` at the end, so
  /// that the set that a defender gets, and what is recorded of it, fit the final trigger.
  /// [run thread]
  virtual void train(Context& ctx, const Threat&, Model& model, const ImageSet& training_set,
                     TrainingSetEditor& /*editor*/, const TrainingOptions& options) {
    ctx.trainer().fit(model, training_set, options);
  }

  /// Saves what apply() needs beyond the parameters; the host keeps it with the model's weights.
  /// [run thread]
  virtual void save(StateWriter&) const {}
  /// Restores what save() saved, in an object with the same parameters; apply() and save() then do
  /// as before. Throws EnvironmentError if the state is damaged or does not fit. [run thread]
  virtual void load(Context&, const Threat&, const StateReader&) {}
  /// Finds an additional interface by its identifier; null when there is none. [run thread]
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  Attack() = default;
  Attack(const Attack&) = default;
  Attack& operator=(const Attack&) = default;
  ~Attack() = default;
};

}  // namespace v1
}  // namespace backstop
