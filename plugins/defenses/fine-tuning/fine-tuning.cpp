// Fine-tuning: train the suspicious model on clean images with cross-entropy, and nothing else.
//
// The baseline of every comparison, and, with the scheduler "super-fine-tuning", the method of
// "Fine-Tuning Is All You Need to Mitigate Backdoor Attacks": only the learning rate differs.
//
// Defaults: SGD with rate 0.01, momentum 0.9 and weight decay 5e-4 on the whole model, as
// BackdoorBench trains and fine-tunes (the paper, too, fine-tunes the whole model with the rate
// that it was trained with). Batches of 128 are those of its training; it fine-tunes with 256, for
// 100 epochs, along a cosine. 10 epochs are BackdoorBox's. The plain update rule of the paper's
// text is `optimizer = { name = "sgd", momentum = 0.0, weight_decay = 0.0 }`.
#include <string_view>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

backstop::BatchNormMode batch_norm_mode(std::string_view choice) {
  if (choice == "frozen-statistics") return backstop::BatchNormMode::frozen_statistics;
  if (choice == "frozen") return backstop::BatchNormMode::frozen;
  return backstop::BatchNormMode::normal;
}

class FineTuning final : public backstop::Defense {
 public:
  explicit FineTuning(const backstop::Params& params) {
    options_.trainable =
        params.string("trainable") == "head" ? backstop::Part::head : backstop::Part::whole;
    options_.epochs = params.integer("epochs");
    options_.batch_size = params.integer("batch_size");
    options_.scheduler = &params.scheduler("scheduler");
    options_.optimizer = params.optimizer("optimizer");
    options_.batch_norm = batch_norm_mode(params.string("batch_norm"));
  }

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    ctx.trainer().fit(model, data.clean(), options_);
  }

 private:
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, FineTuning)
