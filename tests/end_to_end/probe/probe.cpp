// A defense that uses, or abuses, what the host offers.
#include <stdexcept>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

class Constant final : public backstop::Scheduler {
 public:
  double rate(const backstop::TrainingPosition&) const override { return 0.001; }
};

class Probe final : public backstop::Defense {
 public:
  explicit Probe(const backstop::Params& params) : action_(params.string("action")) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    if (action_ == "throw") throw std::runtime_error("the probe was told to");
    if (action_ == "throw-int") throw 42;  // NOLINT
    if (action_ == "grab-state") c10::GradMode::set_enabled(false);
    if (action_ == "foreign-set") ctx.trainer().accuracy(model, Foreign());
    if (action_ == "record") record(ctx, data);
    if (action_ == "spoil") spoil(ctx, model, data);
  }

 private:
  class Foreign final : public backstop::ImageSet {
    std::int64_t size() const noexcept override { return 0; }
    std::int64_t channels() const noexcept override { return 3; }
    std::int64_t height() const noexcept override { return 1; }
    std::int64_t width() const noexcept override { return 1; }
    std::int64_t classes() const noexcept override { return 2; }
    at::Tensor images(const at::Tensor&) const override { return {}; }
    at::Tensor labels() const override { return {}; }
    at::Tensor indices() const override { return {}; }
  };

  static void record(backstop::Context& ctx, const backstop::DefenderData& data) {
    ctx.metric("answer", 42);
    ctx.artifact("three", at::ones({3}, at::kFloat));
    // The first half: half of the poison and half of the rest, more or less.
    ctx.flag_poison(at::arange(data.training().size() / 2, at::kLong));
  }

  static void spoil(backstop::Context& ctx, backstop::Model& model,
                    const backstop::DefenderData& data) {
    const Constant scheduler;
    backstop::TrainingOptions options;
    options.scheduler = &scheduler;
    ctx.trainer().fit(model, data.clean(), options);
    model.mask_channels("linear", at::zeros({model.feature_size()}, at::kBool));
  }

  std::string action_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Probe)
