// Neural attention distillation (Li et al., 2021): fine-tune a copy of the model, the teacher, on
// clean images; then train the model itself so that, stage by stage, it attends to what the teacher
// attends to:
//
//   loss = CE(S(x), y) + sum_l beta_l * MSE(A(F_l of S), A(F_l of T))
//   A(F) = a / (|a|_2 + 1e-6),  a = sum over channels of |F_c|^p,  [height, width] for each image
//
// Defaults are those of the authors' code: p = 2; beta = 500, 1000, 1000 for three stages; 20
// epochs in batches of 64; SGD with Nesterov momentum 0.9 and weight decay 1e-4; learning rate 0.1
// for two epochs, then 0.01. The teacher is trained in the same way for 10 epochs, the number in
// BackdoorBench; the authors say 5 to 10.
//
// The betas belong to the last stages: for a model with four stages, the last three are distilled.
//
// Deviations: images get the dataset's crop and flip; the authors also cut out a small random
// square. BackdoorBench uses the pooled features as the third map, and the attention of a single
// pixel is always 1; here all three are maps with more than one pixel, and a map of one pixel is
// refused. The model sees each batch once, so that its batch normalization counts it once.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/zeros.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"

namespace {

/// The attention maps A(F) of all stages but the first few, float32 [n, height, width] each.
class Attention final : public backstop::ActivationSink {
 public:
  Attention(std::size_t skipped, double power) : skipped_(skipped), power_(power) {}

  at::Tensor activation(std::string_view, const at::Tensor& map) override {
    if (seen_++ < skipped_) return map;
    const at::Tensor sum = map.to(at::kFloat).abs().pow(power_).sum(1);
    const at::Tensor length = sum.norm(2, {1, 2}, /*keepdim=*/true);
    maps_.push_back(sum.div(length.add(1e-6)));
    return map;
  }
  [[nodiscard]] const std::vector<at::Tensor>& maps() const { return maps_; }

 private:
  std::size_t skipped_;
  double power_;
  std::size_t seen_ = 0;
  std::vector<at::Tensor> maps_;
};

class Distillation final : public backstop::TrainingStep {
 public:
  Distillation(backstop::Model& teacher, const std::vector<double>& betas, double power)
      : teacher_(teacher), betas_(betas), power_(power) {
    teacher.set_training(false);
  }

  at::Tensor loss(backstop::Model& student, const backstop::Batch& batch) override {
    const std::size_t skipped = student.stages().size() - betas_.size();
    Attention teacher_attention(skipped, power_);
    {
      const at::NoGradGuard no_gradients;
      teacher_.observe(batch.images, teacher_attention);
    }
    Attention student_attention(skipped, power_);
    at::Tensor loss =
        at::cross_entropy_loss(student.observe(batch.images, student_attention), batch.labels);
    for (std::size_t i = 0; i < betas_.size(); ++i)
      loss = loss.add(at::mse_loss(student_attention.maps()[i], teacher_attention.maps()[i]),
                      betas_[i]);
    return loss;
  }
  void* query(std::string_view id) noexcept override { return backstop::stateless(id); }

 private:
  backstop::Model& teacher_;
  const std::vector<double>& betas_;
  double power_;
};

class Nad final : public backstop::Defense {
 public:
  explicit Nad(const backstop::Params& params)
      : betas_(params.numbers("betas").begin(), params.numbers("betas").end()),
        power_(params.number("power")),
        teacher_epochs_(params.integer("teacher_epochs")),
        options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    const backstop::ImageSet& clean = data.clean();
    check(model, clean);

    backstop::Model& teacher = ctx.clone(model);
    backstop::TrainingOptions options = options_;
    options.epochs = teacher_epochs_;
    ctx.trainer().fit(teacher, clean, options);

    Distillation step(teacher, betas_, power_);
    options.epochs = options_.epochs;
    options.step = &step;
    ctx.trainer().fit(model, clean, options);
  }

 private:
  void check(backstop::Model& model, const backstop::ImageSet& clean) const {
    const auto stages = model.stages();
    if (stages.empty())
      throw backstop::ParameterError(
          "neural attention distillation needs the feature maps of the stages, which this model "
          "does not provide",
          "choose another [model] architecture");
    if (betas_.size() > stages.size())
      throw backstop::ParameterError(
          "`betas` must have at most as many entries as the model has stages (" +
              std::to_string(stages.size()) + "), got " + std::to_string(betas_.size()),
          "leave out entries at the front, which belong to early stages");
    const at::NoGradGuard no_gradients;
    const std::size_t skipped = stages.size() - betas_.size();
    Attention probe(skipped, power_);
    model.set_training(false);
    model.observe(clean.images(at::zeros({1}, at::kLong)), probe);
    for (std::size_t i = 0; i < betas_.size(); ++i)
      if (betas_[i] > 0 && probe.maps()[i].numel() == 1)
        throw backstop::ParameterError("the feature maps of stage `" +
                                           std::string(stages[skipped + i]) +
                                           "` are 1 x 1 pixels, whose attention is always 1",
                                       "set its entry of `betas` to 0, or use larger images");
  }

  std::vector<double> betas_;
  double power_;
  std::int64_t teacher_epochs_;
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Nad)
