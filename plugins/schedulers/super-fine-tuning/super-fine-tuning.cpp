// The scheduler of super-fine-tuning ("Fine-Tuning Is All You Need to Mitigate Backdoor Attacks",
// section 3.2): triangles between a base learning rate and a maximum that is large in a first
// phase, to forget the trigger, and small in a second one, to settle.
//
//   P = up + down,  c = i mod P,  i counted over the whole training
//   rate(i) = base + (maximum - base) * c / up          for c < up
//             base + (maximum - base) * (P - c) / down  otherwise
//   maximum = maximum_1 while epoch < phase_1_epochs, then maximum_2
//
// The base, both maxima and the length of the first phase are those of the paper, whose trainings
// have 100 epochs. The paper leaves
// the length of a triangle open ("several iterations"), so it is our choice: `triangles_per_epoch`
// gives P = max(2, round(iterations_per_epoch / triangles_per_epoch)), up = P / 2, down = P - up,
// which keeps the shape when the batch size or the number of clean images changes. `up_iterations`
// and `down_iterations` set it directly; an independent implementation uses 10 + 10.
//
// Triangles continue across epochs. If P does not divide an epoch, an epoch may end, and the second
// phase begin, inside a triangle.
//
// Deviations: the paper asks for maximum_1 > maximum_2; equality is allowed, for ablations. Where
// the recipe leaves `phase_1_epochs` out, the first phase lasts ten epochs as in the paper, but at
// most half of the training, because a model that never leaves it does not get its clean accuracy
// back.
#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>

#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"
#include "triangles.hpp"

namespace {

class SuperFineTuning final : public backstop::Scheduler {
 public:
  explicit SuperFineTuning(const backstop::Params& params)
      : base_(params.number("base")),
        maximum_1_(params.number("maximum_1")),
        maximum_2_(params.number("maximum_2")),
        triangles_per_epoch_(params.integer("triangles_per_epoch")) {
    if (params.has("phase_1_epochs")) phase_1_epochs_ = params.integer("phase_1_epochs");
    if (base_ > maximum_2_ || maximum_2_ > maximum_1_)
      throw backstop::ParameterError(
          (std::ostringstream() << "`base`, `maximum_2` and `maximum_1` must not decrease, got "
                                << base_ << ", " << maximum_2_ << " and " << maximum_1_)
              .str(),
          "the paper uses 0.001, 0.01 and 0.1");
    if (params.has("up_iterations") != params.has("down_iterations"))
      throw backstop::ParameterError("only one of `up_iterations` and `down_iterations` is given",
                                     "give both, or neither to use `triangles_per_epoch`");
    if (params.has("up_iterations")) {
      up_ = params.integer("up_iterations");
      down_ = params.integer("down_iterations");
    }
  }

  double rate(const backstop::TrainingPosition& position) const override {
    std::int64_t up = up_;
    std::int64_t period = up_ + down_;
    if (period == 0) {
      const double length = static_cast<double>(position.iterations_per_epoch) /
                            static_cast<double>(triangles_per_epoch_);
      period = std::max<std::int64_t>(2, std::llround(length));
      up = period / 2;
    }
    const double height = backstop::triangles::height(position.iteration, up, period - up);
    return std::lerp(base_, in_phase_1(position) ? maximum_1_ : maximum_2_, height);
  }

 private:
  bool in_phase_1(const backstop::TrainingPosition& position) const {
    if (phase_1_epochs_) return position.epoch() < *phase_1_epochs_;
    return position.epoch() < kPhase1Epochs && position.iteration < position.total_iterations() / 2;
  }

  static constexpr std::int64_t kPhase1Epochs = 10;
  double base_;
  double maximum_1_;
  double maximum_2_;
  std::optional<std::int64_t> phase_1_epochs_;
  std::int64_t triangles_per_epoch_;
  std::int64_t up_ = 0;  // both 0: triangles_per_epoch_ decides
  std::int64_t down_ = 0;
};

}  // namespace

BACKSTOP_PLUGIN(Scheduler, SuperFineTuning)
