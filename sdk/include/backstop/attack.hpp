// A backdoor attack: how a trigger gets onto images, into the training set and into the model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/randperm.h>

#include "backstop/context.hpp"
#include "backstop/error.hpp"

namespace backstop {
inline namespace v0 {

/// What the attacker wants, from the recipe's `[attack]` table.
struct Threat {
  std::uint32_t struct_size = sizeof(Threat);
  std::uint32_t all_to_all = 0;  ///< 1: class y goes to (y + 1) mod classes; `target` is unused
  std::int64_t target = 0;       ///< class that triggered images go to, in 0 .. classes-1
  std::int64_t classes = 0;
  double poison_ratio = 0.1;  ///< share of the training set that the attacker may change

  /// The labels that triggered images with true labels `labels` (int64 [n]) are to get: int64 [n].
  [[nodiscard]] at::Tensor targets(const at::Tensor& labels) const {
    return all_to_all != 0 ? labels.add(1).remainder(classes) : at::full_like(labels, target);
  }

  /// round(poison_ratio * images), at least 1: how many of so many images the attacker changes.
  /// Throws ParameterError when that is none.
  [[nodiscard]] std::int64_t poisoned_of(std::int64_t images) const {
    const std::int64_t count = std::llround(poison_ratio * static_cast<double>(images));
    if (count > 0) return count;
    throw ParameterError("a poison_ratio of " + std::to_string(poison_ratio) + " of " +
                             std::to_string(images) + " images is no image",
                         "raise `poison_ratio`");
  }
};

/// Triggers may differ between poisoning and testing (Blended's strength does).
enum class Phase : std::uint32_t { train = 0, test = 1 };

/// Why an image of the training set was changed.
enum class Role : std::uint32_t {
  poison = 1,  ///< trigger and target label: detections are scored against these
  cover = 2,  ///< trigger, or something like it, with the true label (noise mode, adaptive attacks)
};

/// The training set while the attacker has it. Implemented by the host.
class TrainingSetEditor {
 public:
  [[nodiscard]] virtual const ImageSet& images() const noexcept = 0;
  /// Overwrites the images at `positions` (int64 [m]) with `images` (float [m, C, H, W] in [0, 1],
  /// rounded to 8 bits as an attacker who writes files must) and `labels` (int64 [m]), and records
  /// their role. Several calls may follow each other; a position is written once.
  virtual void write(const at::Tensor& positions, const at::Tensor& images,
                     const at::Tensor& labels, Role role) = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~TrainingSetEditor() = default;
};

/// Implemented by plugins. The host calls, in this order: prepare, poison, train, save; or, when
/// the backdoored model is already there, load. After either, and after every epoch of train, apply
/// may be called any number of times. A dirty-label attack with a fixed trigger implements apply()
/// alone. [run thread]
class Attack {
 public:
  /// Draws or learns the trigger from the clean training set, with ctx.generator().
  virtual void prepare(Context&, const Threat&, const ImageSet& /*training_set*/) {}

  /// The images with their trigger: float32 [n, C, H, W] in [0, 1] to the same shape and range.
  /// The same images give the same result, in every batch size and every process.
  virtual at::Tensor apply(Context& ctx, const at::Tensor& images, Phase phase) = 0;

  /// Changes the training set. As it stands: round(poison_ratio * size) images, drawn from all
  /// classes, get the trigger and the target label. Throws ParameterError when that is no image.
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

  /// Trains the model on what poison() left. As it stands: the host's training with the options
  /// of the recipe's `[attack.training]`. Attacks that control training override it; one whose
  /// trigger is learnt on the way leaves poison() empty and writes to `editor` in the end, so that
  /// the set that a defender gets, and what is recorded of it, fit the final trigger.
  virtual void train(Context& ctx, const Threat&, Model& model, const ImageSet& training_set,
                     TrainingSetEditor& /*editor*/, const TrainingOptions& options) {
    ctx.trainer().fit(model, training_set, options);
  }

  /// Writes what apply() needs beyond the parameters; it is kept beside the model's weights.
  virtual void save(StateWriter&) const {}
  virtual void load(Context&, const Threat&, const StateReader&) {}
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  Attack() = default;
  Attack(const Attack&) = default;
  Attack& operator=(const Attack&) = default;
  ~Attack() = default;
};

}  // namespace v0
}  // namespace backstop
