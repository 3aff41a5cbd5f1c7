// A learning-rate scheduler: a function from a position in training to a rate.
#pragma once

#include <cstdint>
#include <string_view>

namespace backstop {
inline namespace v0 {

/// Where a training is, counted in optimiser steps.
struct TrainingPosition {
  std::uint32_t struct_size = sizeof(TrainingPosition);
  std::uint32_t reserved = 0;
  std::int64_t iteration = 0;             ///< steps done before this one, over all epochs; from 0
  std::int64_t iterations_per_epoch = 1;  ///< at least 1
  std::int64_t epochs = 1;                ///< length of this training, in epochs; at least 1

  [[nodiscard]] std::int64_t epoch() const { return iteration / iterations_per_epoch; }
  [[nodiscard]] std::int64_t total_iterations() const { return iterations_per_epoch * epochs; }
};

/// Implemented by plugins. Stateless: one object serves several trainings, also side by side, so
/// `rate` depends on its argument and on the parameters alone.
class Scheduler {
 public:
  /// The learning rate of the step at `position`: finite and not negative. [any thread]
  [[nodiscard]] virtual double rate(const TrainingPosition& position) const = 0;
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  Scheduler() = default;
  Scheduler(const Scheduler&) = default;
  Scheduler& operator=(const Scheduler&) = default;
  ~Scheduler() = default;
};

}  // namespace v0
}  // namespace backstop
