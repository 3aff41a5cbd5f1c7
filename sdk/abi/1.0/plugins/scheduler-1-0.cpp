// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// The rate rises linearly during the first epochs, and then falls linearly.
#include <cstdint>
#include <string_view>

#include "backstop/params.hpp"
#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"
#include "require.hpp"

namespace {

class WarmUp final : public backstop::Scheduler {
 public:
  explicit WarmUp(const backstop::Params& params)
      : peak_(params.number("peak")), epochs_(params.integer("warm_up")) {}

  double rate(const backstop::TrainingPosition& position) const override {
    require(position.struct_size >= sizeof position, "a TrainingPosition has all of its fields");
    require(position.iterations_per_epoch >= 1 && position.epochs >= 1, "a training has a length");
    const std::int64_t all = position.total_iterations(), now = position.iteration;
    require(now >= 0 && now < all, "a position lies within its training");
    const std::int64_t rise = epochs_ * position.iterations_per_epoch;
    return position.epoch() < epochs_ ? peak_ * share(now + 1, rise)
                                      : peak_ * share(all - now, all - rise);
  }
  const void* query(std::string_view) const noexcept override { return nullptr; }

 private:
  static double share(std::int64_t part, std::int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  }

  double peak_;
  std::int64_t epochs_;  // of the rise
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, WarmUp)
