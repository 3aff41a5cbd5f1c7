// State that the host keeps while a plugin trains, so that a training goes on after its process was
// killed, with the same bits.
//
// A run that was killed and started again calls the plugin from the beginning, in a new object. A
// training that had ended is not repeated: Trainer::fit returns with the model, the generator and
// the training step as they were at its end. One that was under way goes on behind its last
// checkpoint. What a plugin does between its trainings happens again, and gives the same if it draws
// from Context::generator.
//
// An ABI 1.0 host does not look for these interfaces, and runs the plugin all the same.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "backstop/context.hpp"

namespace backstop {
inline namespace v1 {

/// Implemented by plugins, and offered by TrainingStep::query: what a training step keeps from one
/// batch to the next. Without it, the host cannot keep trainings that use the step, and repeats them
/// from their first epoch. [run thread]
class TrainingState {
 public:
  static constexpr std::string_view kId = "backstop.training-state/1";

  /// Saves all that the step's next calls, and the plugin once fit() has returned, depend on:
  /// counters, sums, networks and optimizers of its own. The host itself keeps the model with its
  /// optimizer, the tensors in TrainingStep::parameters, Context::generator, and what was recorded with
  /// the Context. Called after TrainingStep::after_update of any batch, or after after_epoch.
  /// [run thread]
  virtual void save(StateWriter& state) const = 0;
  /// Restores what save() saved, in a new step of a plugin with the same parameters. Called within
  /// fit(), before any of the step's other functions but parameters(). Throws Error if it does not
  /// fit. [run thread]
  virtual void load(const StateReader& state) = 0;

 protected:
  TrainingState() = default;
  TrainingState(const TrainingState&) = default;
  TrainingState& operator=(const TrainingState&) = default;
  ~TrainingState() = default;
};

/// Keeps what a plugin does in a loop of its own, as Trainer::fit keeps a training. Implemented by the
/// host, and found by Context::query; KeptLoop calls it. [run thread]
class LoopKeeper {
 public:
  static constexpr std::string_view kId = "backstop.loop-keeper/1";

  /// Begins a loop, whose steps change nothing but what `state` saves, Context::generator, and what is
  /// recorded with the Context. If it was kept, `state` and all of these are restored. Returns how many
  /// steps were done then, or 0. `state` must live until the loop is over; then the next may begin.
  /// [run thread]
  virtual std::int64_t begin(TrainingState& state) = 0;
  /// `done` steps are over; if `over`, it is the last call for this loop. The host saves the state when
  /// it is time to. [run thread]
  virtual void advance(std::int64_t done, bool over) = 0;
  // -- ABI 1.1 ends here: append below, never reorder --

 protected:
  ~LoopKeeper() = default;
};

/// A loop that the host keeps, on a host that does. At its beginning `done()` steps are over, and
/// `state` is as it was after them:
///
///     backstop::KeptLoop loop(ctx, state);
///     for (std::int64_t i = loop.done(); i < steps; ++i) {
///       ...
///       loop.advance(i + 1, i + 1 == steps);
///     }
class KeptLoop {
 public:
  KeptLoop(Context& ctx, TrainingState& state)
      : keeper_(static_cast<LoopKeeper*>(ctx.query(LoopKeeper::kId))),
        done_(keeper_ != nullptr ? keeper_->begin(state) : 0) {}
  [[nodiscard]] std::int64_t done() const noexcept { return done_; }
  void advance(std::int64_t done, bool over) {
    if (keeper_ != nullptr) keeper_->advance(done, over);
  }

 private:
  LoopKeeper* keeper_;
  std::int64_t done_;
};

/// For TrainingStep::query of a step that keeps nothing from one batch to the next:
/// `return backstop::stateless(id);`
[[nodiscard]] inline void* stateless(std::string_view id) noexcept {
  class Nothing final : public TrainingState {
   public:
    void save(StateWriter&) const override {}
    void load(const StateReader&) override {}
  };
  static Nothing nothing;
  return id == TrainingState::kId ? static_cast<TrainingState*>(&nothing) : nullptr;
}

}  // namespace v1
}  // namespace backstop
