// Cannot be made: its constructor refuses the parameters.
#include "bad_plugin.hpp"

namespace {
class Refuser final : public backstop::Scheduler {
 public:
  explicit Refuser(const backstop::Params&) {
    throw backstop::ParameterError("rate is 3, the plugin wants 4", "set rate = 4");
  }
  double rate(const backstop::TrainingPosition&) const override { return 0.1; }
};
}  // namespace

BAD_PLUGIN_GOOD_NOTES("throws-in-create");
BACKSTOP_PLUGIN(Scheduler, Refuser)
