// One rise and one fall of the learning rate over the whole training (Smith & Topin,
// "Super-Convergence"):
//
//   initial = maximum / initial_divisor,  final = initial / final_divisor
//   rate(i) = anneal(initial, maximum, i / p)              for i <= p = round(warm_up * (T - 1))
//             anneal(maximum, final, (i - p) / (T - 1 - p))  afterwards
//
// where T is the number of iterations and anneal() is a straight line, as in the paper, or half a
// cosine. The first iteration runs at `initial`, iteration p at `maximum` and the last one at
// `final`; a training too short to rise (p = 0) starts at `maximum`.
//
// Deviations: in the paper the rise and the fall take equal times, and a short third piece follows
// for the last fall. Here the fall is one piece, and the rise takes 30 % of the training; this
// share and the divisors 25 and 1e4 are the defaults of fastai and PyTorch. The paper chooses the
// maximum for each task; 0.1 is what the fine-tuning paper derives from it. Momentum is not cycled.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

namespace {

class OneCycle final : public backstop::Scheduler {
 public:
  explicit OneCycle(const backstop::Params& params)
      : maximum_(params.number("maximum")),
        initial_(maximum_ / params.number("initial_divisor")),
        final_(initial_ / params.number("final_divisor")),
        warm_up_(params.number("warm_up")),
        cosine_(params.string("shape") == "cosine") {}

  double rate(const backstop::TrainingPosition& position) const override {
    const auto last = static_cast<double>(position.total_iterations() - 1);
    const double peak = std::round(warm_up_ * last);
    const double now = std::min(static_cast<double>(position.iteration), last);
    if (now < peak) return anneal(initial_, maximum_, now / peak);
    if (now == peak) return maximum_;
    return anneal(maximum_, final_, (now - peak) / (last - peak));
  }

 private:
  double anneal(double from, double to, double share) const {
    return std::lerp(from, to, cosine_ ? (1 - std::cos(std::numbers::pi * share)) / 2 : share);
  }

  double maximum_;
  double initial_;
  double final_;
  double warm_up_;
  bool cosine_;
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, OneCycle)
