// Blended (Chen et al., 2017): a faint pattern over the whole image, and the target label.
//
//   x' = clip((1 - alpha) * x + alpha * pattern, 0, 1)
//
// Defaults: alpha is 0.2 for poisoning and for testing, as in BackdoorBench and, for patterns over
// the whole image, in the paper. BackdoorBench blends in a cartoon picture that we may not
// distribute; the default here is the paper's other pattern, uniform noise, drawn once. "smooth" is
// noise without high frequencies; "image" blends in a picture of your own.
//
// The pattern is saved with the model. For images of another size it is resized.
#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"
#include "pattern.hpp"

namespace {

class Blended final : public backstop::Attack {
 public:
  explicit Blended(const backstop::Params& params)
      : alpha_(params.number("alpha")),
        test_alpha_(params.has("test_alpha") ? params.number("test_alpha") : alpha_),
        pattern_(params) {}

  void prepare(backstop::Context& ctx, const backstop::Threat&,
               const backstop::ImageSet& training_set) override {
    pattern_.draw(ctx.generator(), training_set);
  }

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase phase) override {
    return pattern_.blended_into(images, phase == backstop::Phase::train ? alpha_ : test_alpha_);
  }

  void save(backstop::StateWriter& state) const override { pattern_.save(state); }
  void load(backstop::Context&, const backstop::Threat&,
            const backstop::StateReader& state) override {
    pattern_.load(state);
  }

 private:
  double alpha_;
  double test_alpha_;
  backstop::pattern::Pattern pattern_;
};

}  // namespace

BACKSTOP_PLUGIN(Attack, Blended)
