// Its constructor throws something that is no std::exception.
#include "bad_plugin.hpp"

namespace {
class Thrower final : public backstop::Scheduler {
 public:
  explicit Thrower(const backstop::Params&) { throw 42; }
  double rate(const backstop::TrainingPosition&) const override { return 0.1; }
};
}  // namespace

BAD_PLUGIN_GOOD_NOTES("throws-42");
BACKSTOP_PLUGIN(Scheduler, Thrower)
