// The triangular cycle of Smith (2017, arXiv:1506.01186): the rate rises linearly from `base` to
// `maximum` and falls back, again and again.
//
//   rate(i) = base + (maximum - base) * (1 - |2 p - 1|)
//
// where p is the position of step i in its cycle, 0 <= p < 1.
#include <cmath>
#include <sstream>

#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

namespace {

class @Class@ final : public backstop::Scheduler {
 public:
  explicit @Class@(const backstop::Params& params)
      : base_(params.number("base")),
        maximum_(params.number("maximum")),
        period_(params.number("period")) {
    if (maximum_ >= base_) return;
    std::ostringstream message;
    message << "`maximum` must be at least `base`, which is " << base_ << ", got " << maximum_;
    throw backstop::ParameterError(message.str(), "swap the two values");
  }

  double rate(const backstop::TrainingPosition& position) const override {
    const double cycles = static_cast<double>(position.iteration) /
                          (period_ * static_cast<double>(position.iterations_per_epoch));
    const double p = cycles - std::floor(cycles);
    return base_ + (maximum_ - base_) * (1 - std::abs(2 * p - 1));
  }

 private:
  double base_, maximum_, period_;
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, @Class@)
