// Fine-tuning: train the suspicious model on clean images with cross-entropy, and nothing else.
//
// The baseline of every comparison. With the scheduler "super-fine-tuning" it is the method of
// "Fine-Tuning Is All You Need to Mitigate Backdoor Attacks", which differs only in the learning
// rate.
//
// Defaults: SGD with learning rate 0.01, momentum 0.9 and weight decay 5e-4 on the whole model, as
// BackdoorBench trains and fine-tunes (the paper also fine-tunes the whole model at the learning
// rate it was trained with). Batches of 128 are those of BackdoorBench's training; it fine-tunes
// with batches of 256 for 100 epochs along a cosine. The 10 epochs are those of BackdoorBox. The
// plain update rule in the paper's text is
// `optimizer = { name = "sgd", momentum = 0.0, weight_decay = 0.0 }`.
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
  explicit FineTuning(const backstop::Params& params)
      : options_(backstop::training_options(params)) {
    options_.trainable =
        params.string("trainable") == "head" ? backstop::Part::head : backstop::Part::whole;
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
