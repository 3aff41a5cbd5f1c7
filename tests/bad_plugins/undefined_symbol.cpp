// Calls a function that nobody defines.
#include "bad_plugin.hpp"

void defined_nowhere();

namespace {
class Caller final : public backstop::Scheduler {
 public:
  explicit Caller(const backstop::Params&) { defined_nowhere(); }
  double rate(const backstop::TrainingPosition&) const override { return 0.1; }
};
}  // namespace

BAD_PLUGIN_GOOD_NOTES("undefined-symbol");
BACKSTOP_PLUGIN(Scheduler, Caller)
