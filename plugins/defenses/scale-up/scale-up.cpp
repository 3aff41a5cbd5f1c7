// SCALE-UP: when all pixels of a triggered image are amplified, the prediction stays the target,
// while that of a clean image changes. The scaled prediction consistency of an image x is
//
//   SPC(x) = share of s in S for which argmax f(clip(s x, 0, 1)) = argmax f(x)
//
// which is the score (data-free). With `standardized` (data-limited), the mean and the standard
// deviation of the SPC of the defender's clean images of the class argmax f(x) are taken out:
// (SPC - mean) / deviation.
//
// After Guo et al. (ICLR 2023), with the settings of the authors' program in BackdoorBox
// (github.com/THUYimingLi/BackdoorBox, core/defenses/SCALE_UP.py): S = 3, 5, 7, 9, 11, T = 0.5.
// Deviations: with `standardized`, statistics are by predicted class, where the program pools all
// classes, and a deviation counts as at least 0.1, because the SPC of a few images of a class
// may not spread at all. The program scores only images that the model classifies as they are
// labeled; here the host scores all of them.
#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/plugin.hpp"

namespace {

class ScaleUp final : public backstop::Defense, public backstop::InputDetector {
 public:
  explicit ScaleUp(const backstop::Params& params)
      : scales_(params.numbers("scales").begin(), params.numbers("scales").end()),
        threshold_(params.number("threshold")),
        standardized_(params.boolean("standardized")) {
    if (scales_.empty())
      throw backstop::ParameterError("`scales` is empty", "give at least one factor");
  }

  void run(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    throw backstop::Error("scale-up only detects, and repairs no model", "name it in [[detector]]");
  }

  void* query(std::string_view interface_id) noexcept override {
    return interface_id == backstop::InputDetector::kId
               ? static_cast<backstop::InputDetector*>(this)
               : nullptr;
  }

  double prepare(backstop::Context& ctx, backstop::Model& model,
                 const backstop::DefenderData& data) override {
    mean_ = at::zeros({model.classes()});
    deviation_ = at::ones({model.classes()});
    if (standardized_) learn(ctx, model, data.clean());
    return threshold_;
  }

  at::Tensor scores(backstop::Context& ctx, backstop::Model& model,
                    const at::Tensor& images) override {
    const Consistency found = consistency(ctx, model, images);
    return found.spc.sub(mean_.index_select(0, found.predicted))
        .div(deviation_.index_select(0, found.predicted));
  }

 private:
  struct Consistency {
    at::Tensor spc, predicted;  ///< float and int64 [n], on the CPU
  };

  [[nodiscard]] Consistency consistency(backstop::Context& ctx, backstop::Model& model,
                                        const at::Tensor& images) const {
    const at::Tensor predicted = model.forward(images).argmax(1);
    at::Tensor same = at::zeros({images.size(0)});
    for (const double scale : scales_) {
      ctx.stop_if_cancelled();
      same.add_(model.forward(images.mul(scale).clamp(0, 1)).argmax(1).eq(predicted).to(at::kCPU));
    }
    return {same.div(static_cast<double>(scales_.size())), predicted.to(at::kCPU)};
  }

  /// Mean and deviation of each class that the model predicts; those of all images where a class has
  /// fewer than two.
  void learn(backstop::Context& ctx, backstop::Model& model, const backstop::ImageSet& clean) {
    constexpr std::int64_t kBatch = 128;
    constexpr double kLeastDeviation = 0.1;
    const at::NoGradGuard no_gradients;
    std::vector<at::Tensor> spcs, classes;
    for (const at::Tensor& positions : at::arange(clean.size(), at::kLong).split(kBatch)) {
      const Consistency found = consistency(ctx, model, clean.images(positions));
      spcs.push_back(found.spc);
      classes.push_back(found.predicted);
    }
    const at::Tensor spc = at::cat(spcs), predicted = at::cat(classes);
    for (std::int64_t label = 0; label < model.classes(); ++label) {
      at::Tensor of_class = spc.masked_select(predicted.eq(label));
      if (of_class.numel() < 2) of_class = spc;
      mean_.select(0, label).copy_(of_class.mean());
      deviation_.select(0, label).copy_(
          of_class.std(/*unbiased=*/false).clamp_min(kLeastDeviation));
    }
  }

  std::vector<double> scales_;
  double threshold_;
  bool standardized_;
  at::Tensor mean_, deviation_;  ///< float [classes], by predicted class
};

}  // namespace

BACKSTOP_PLUGIN(Defense, ScaleUp)
