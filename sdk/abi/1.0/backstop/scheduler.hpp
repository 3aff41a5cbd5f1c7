// A learning-rate scheduler: a function from the position in a training run to a learning rate.
#pragma once

#include <cstdint>
#include <string_view>

#include "backstop/abi.h"
#include "backstop/struct_size.hpp"

namespace backstop {
inline namespace v1 {

/// The position in a training run, counted in optimizer steps.
struct TrainingPosition {
  StructSize<TrainingPosition> struct_size;
  std::uint32_t reserved = 0;
  std::int64_t iteration = 0;  ///< steps before this one, over all epochs; the first is 0
  std::int64_t iterations_per_epoch = 1;  ///< at least 1
  std::int64_t epochs = 1;                ///< the length of the training run; at least 1

  [[nodiscard]] std::int64_t epoch() const { return iteration / iterations_per_epoch; }
  [[nodiscard]] std::int64_t total_iterations() const { return iterations_per_epoch * epochs; }
};

/// Implemented by plugins. Stateless: one object may serve several training runs at the same time,
/// so `rate` depends only on its argument and on the plugin's parameters.
class Scheduler {
 public:
  /// The learning rate of the step at `position`: finite and at least 0. [any thread]: may be
  /// called on any thread, and on several at once.
  [[nodiscard]] virtual double rate(const TrainingPosition& position) const = 0;
  /// Finds an additional interface by its identifier; null when there is none. [any thread]
  [[nodiscard]] virtual const void* query(std::string_view) const noexcept { return nullptr; }

 protected:
  Scheduler() = default;
  Scheduler(const Scheduler&) = default;
  Scheduler& operator=(const Scheduler&) = default;
  ~Scheduler() = default;
};

}  // namespace v1
}  // namespace backstop
