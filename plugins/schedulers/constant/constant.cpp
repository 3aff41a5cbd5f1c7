// The same learning rate at every step, as in conventional fine-tuning.
#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

namespace {

class Constant final : public backstop::Scheduler {
 public:
  explicit Constant(const backstop::Params& params) : rate_(params.number("rate")) {}

  double rate(const backstop::TrainingPosition&) const override { return rate_; }

 private:
  double rate_;
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, Constant)
