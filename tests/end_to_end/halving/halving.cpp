// rate / 2^epoch.
#include <cmath>
#include <stdexcept>

#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

namespace {

class Halving final : public backstop::Scheduler {
 public:
  explicit Halving(const backstop::Params& params)
      : rate_(params.number("rate")), fail_(params.boolean("fail")) {}

  double rate(const backstop::TrainingPosition& position) const override {
    if (fail_) throw std::runtime_error("told to");
    return std::ldexp(rate_, -static_cast<int>(position.epoch()));
  }

 private:
  double rate_;
  bool fail_;
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, Halving)
