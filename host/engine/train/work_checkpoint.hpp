// How a stage's work goes on where another process was killed. The work is trainings and loops of a
// plugin's own, numbered in the order in which they begin; each has a checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include <ATen/core/Tensor.h>

#include "backstop/trainer.hpp"
#include "backstop/training_state.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/store/checkpoints.hpp"
#include "host/engine/train/optimizer.hpp"

namespace backstop::engine {

class StageContext;

/// The checkpoint of one piece of work.
class WorkCheckpoint {
 public:
  /// Of the next of the stage of `ctx`, which is about to begin.
  explicit WorkCheckpoint(StageContext& ctx);

 protected:
  ~WorkCheckpoint() = default;

  /// Whether anything is kept.
  [[nodiscard]] bool enabled() const;
  /// What was kept of this work, if it began like this one: `beginning` is a digest of all that
  /// decides what it does. What cannot be used is said, with `restart`. Restores what the stage had
  /// recorded; calls `load` with the rest before that. Throws what `load` throws.
  template <typename Load>
  bool resume(std::string beginning, const char* restart, Load&& load);
  [[nodiscard]] bool due() const;
  /// Keeps the work with what the stage has recorded. `where` it is now, in words after which it
  /// "goes on". A failure is a warning.
  void save(const std::string& where, Checkpoint work);
  /// The same, of work that can only begin again.
  void save_that_it_cannot_be_kept(const char* why);

  StageContext& ctx_;

 private:
  [[nodiscard]] std::optional<Checkpoint> load(const char* restart);
  void write(const Checkpoint& kept);

  std::size_t number_;
  std::string beginning_;
  bool failed_ = false;  ///< to save, which the user was told
};

/// How far a training has come.
struct FitPosition {
  std::int64_t epoch = 0;   ///< epochs that are over
  std::int64_t images = 0;  ///< images of the next epoch that are over
  at::Tensor order;     ///< of the images in that epoch, int64 [size]; undefined before it begins
  at::Tensor loss_sum;  ///< over those images, float32 []
  bool ended = false;
};

/// A training, as what its rest depends on.
struct FitState {
  Classifier& model;
  const ImageStore& images;
  const TrainingOptions& options;
  Optimizer& optimizer;
  std::span<const at::Tensor> own;  ///< the step's parameters
  FitPosition& position;
};

class FitCheckpoint final : private WorkCheckpoint {
 public:
  FitCheckpoint(StageContext& ctx, const FitState& fit) : WorkCheckpoint(ctx), fit_(fit) {}

  /// Brings the training to where it was kept, if it was. Throws what the plugin's step throws.
  void resume();
  /// Keeps the training.
  void save();
  void save_if_due() {
    if (due()) save();
  }

 private:
  FitState fit_;
};

/// A loop of a plugin's own.
class LoopCheckpoint final : private WorkCheckpoint {
 public:
  LoopCheckpoint(StageContext& ctx, TrainingState& state) : WorkCheckpoint(ctx), state_(state) {}

  /// See LoopKeeper::begin.
  std::int64_t resume();
  /// See LoopKeeper::advance.
  void advance(std::int64_t done, bool over);

 private:
  TrainingState& state_;
};

}  // namespace backstop::engine
