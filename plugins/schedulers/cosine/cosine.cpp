// Half a cosine from one learning rate down to another (Loshchilov & Hutter, 2017, without
// restarts):
//
//   rate(i) = minimum + (rate - minimum) * (1 + cos(pi * i / T)) / 2   for i < T, then minimum
//
// with i counted in iterations, so that the rate also falls within an epoch, and T the whole
// training unless `period_epochs` says otherwise.
//
// Defaults: BackdoorBench trains with rate 0.01 and minimum 0. It updates the rate once an epoch
// and over 100 epochs, whatever the length of the training, so that its 50 epochs on GTSRB cover
// half of the descent: `period_epochs = 100` reproduces that. A training longer than the period
// stays at the minimum, where other implementations let the cosine rise again.
#include <cmath>
#include <numbers>
#include <sstream>

#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

namespace {

class Cosine final : public backstop::Scheduler {
 public:
  explicit Cosine(const backstop::Params& params)
      : rate_(params.number("rate")),
        minimum_(params.number("minimum")),
        period_epochs_(params.has("period_epochs") ? params.integer("period_epochs") : 0) {
    if (minimum_ > rate_)
      throw backstop::ParameterError((std::ostringstream() << "`minimum` must be at most `rate` ("
                                                           << rate_ << "), got " << minimum_)
                                         .str(),
                                     "the learning rate falls from `rate` to `minimum`");
  }

  double rate(const backstop::TrainingPosition& position) const override {
    const std::int64_t epochs = period_epochs_ > 0 ? period_epochs_ : position.epochs;
    const double done = static_cast<double>(position.iteration) /
                        static_cast<double>(position.iterations_per_epoch) /
                        static_cast<double>(epochs);
    if (done >= 1) return minimum_;
    return minimum_ + (rate_ - minimum_) * (1 + std::cos(std::numbers::pi * done)) / 2;
  }

 private:
  double rate_;
  double minimum_;
  std::int64_t period_epochs_;  // 0: the length of the training
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, Cosine)
