// A learning rate that drops by a constant factor at given epochs:
//
//   rate(i) = rate * factor^m,  m = the number of milestones at or before the epoch of iteration i
//
// This is the usual schedule of a long training from scratch. Defaults: BackdoorBox trains with
// rate 0.1, factor 0.1 and milestones 150 and 180 of 200 epochs. The milestones have no default: in
// a training shorter than the first one, the rate would silently be constant.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

namespace {

class Step final : public backstop::Scheduler {
 public:
  explicit Step(const backstop::Params& params)
      : rate_(params.number("rate")),
        factor_(params.number("factor")),
        milestones_(params.integers("milestones").begin(), params.integers("milestones").end()) {
    const auto unordered =
        std::adjacent_find(milestones_.begin(), milestones_.end(), std::greater_equal<>());
    if (unordered != milestones_.end())
      throw backstop::ParameterError("`milestones` must increase, got " +
                                         std::to_string(unordered[1]) + " after " +
                                         std::to_string(unordered[0]),
                                     "sort the epochs and list each of them once");
  }

  double rate(const backstop::TrainingPosition& position) const override {
    const auto next = std::upper_bound(milestones_.begin(), milestones_.end(), position.epoch());
    return rate_ * std::pow(factor_, static_cast<double>(next - milestones_.begin()));
  }

 private:
  double rate_;
  double factor_;
  std::vector<std::int64_t> milestones_;
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, Step)
