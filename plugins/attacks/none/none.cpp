// No attack: a clean model from the same recipe, to compare the others with.
//
//   x' = x, and no image of the training set is changed
//
// What is measured as attack success is then the share of clean test images of other classes that
// the model takes for the target class: what an attack has to exceed, and what a defense can at
// best come down to. Robust accuracy is clean accuracy on those images.
#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"

namespace {

class None final : public backstop::Attack {
 public:
  explicit None(const backstop::Params&) {}

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase) override {
    return images.clone();
  }

  void poison(backstop::Context&, const backstop::Threat&, backstop::TrainingSetEditor&) override {}
};

}  // namespace

BACKSTOP_PLUGIN(Attack, None)
