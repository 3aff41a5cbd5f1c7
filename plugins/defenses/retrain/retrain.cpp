// Retraining: discard the suspicious model and train a new one from scratch on the defender's clean
// images.
//
// The baseline for every defense that is given clean images: a defense that does no better than
// this has gained nothing from the model that it repairs. The backdoor is certainly gone; the cost
// in accuracy depends on how many clean images there are.
//
// Defaults: the training of BackdoorBench, which is SGD with a cosine learning rate from 0.01,
// momentum 0.9, weight decay 5e-4, batches of 128, 100 epochs.
#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

class Retrain final : public backstop::Defense {
 public:
  explicit Retrain(const backstop::Params& params) : options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    model.reset(backstop::Part::whole, ctx.generator());
    ctx.trainer().fit(model, data.clean(), options_);
  }

 private:
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Retrain)
