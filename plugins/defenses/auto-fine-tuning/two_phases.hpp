// The learning rate of one super-fine-tuning, its length counted in whole epochs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "backstop/scheduler.hpp"
#include "triangles.hpp"

namespace backstop::auto_fine_tuning {

/// Triangles of about twenty iterations between the base and, in the first phase, the peak, in the
/// second the settling rate. Each phase has a whole number of triangles, all of one length; what is
/// left of it stays at the base.
class TwoPhases final : public Scheduler {
 public:
  TwoPhases(double base, double peak, double settling, std::int64_t phase_1_epochs)
      : base_(base), peak_(peak), settling_(settling), phase_1_epochs_(phase_1_epochs) {}

  [[nodiscard]] double rate(const TrainingPosition& position) const override {
    const std::int64_t first = phase_1_epochs_ * position.iterations_per_epoch;
    return position.iteration < first
               ? rate(position.iteration, first, peak_)
               : rate(position.iteration - first, position.total_iterations() - first, settling_);
  }

 private:
  [[nodiscard]] double rate(std::int64_t i, std::int64_t length, double maximum) const {
    constexpr std::int64_t kTriangle = 20;  // 10 + 10, as in an independent implementation
    const std::int64_t count = std::max<std::int64_t>(1, (length + kTriangle / 2) / kTriangle);
    const std::int64_t period = std::max<std::int64_t>(2, length / count), up = period / 2;
    if (i >= count * period) return base_;
    return std::lerp(base_, maximum, triangles::height(i, up, period - up));
  }

  double base_, peak_, settling_;
  std::int64_t phase_1_epochs_;
};

}  // namespace backstop::auto_fine_tuning
