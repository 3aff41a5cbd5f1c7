// rate / 2^epoch.
#include <cmath>

#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

namespace {

class Halving final : public backstop::Scheduler {
 public:
  explicit Halving(const backstop::Params& params) : rate_(params.number("rate")) {}

  double rate(const backstop::TrainingPosition& position) const override {
    return std::ldexp(rate_, -static_cast<int>(position.epoch()));
  }

 private:
  double rate_;
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, Halving)
