// Retraining: forget the suspicious model and train one from scratch on the defender's clean
// images.
//
// The baseline of every defense that is given clean images: one that does no better than this has
// taken nothing from the model that it mends. The backdoor is gone for sure; what it costs in
// accuracy depends on how many clean images there are.
//
// Defaults: BackdoorBench's training, SGD with rate 0.01 along a cosine, momentum 0.9, weight decay
// 5e-4, batches of 128, 100 epochs.
#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

class Retrain final : public backstop::Defense {
 public:
  explicit Retrain(const backstop::Params& params) {
    options_.epochs = params.integer("epochs");
    options_.batch_size = params.integer("batch_size");
    options_.scheduler = &params.scheduler("scheduler");
    options_.optimizer = params.optimizer("optimizer");
  }

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
