// No attack: a clean model from the same recipe, to compare attacked models with.
//
//   x' = x, and no image of the training set is changed
//
// The attack success rate is then the share of clean test images of other classes for which the
// model predicts the target class: an attack has to exceed it, and a defense can at best come down
// to it. Robust accuracy is the clean accuracy on those images.
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
