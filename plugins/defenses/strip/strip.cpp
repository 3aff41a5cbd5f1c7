// STRIP: a trigger keeps its effect when another image is laid over it, so the prediction for a
// triggered image does not depend on the overlay. With overlays o_1 .. o_N, clean images of the
// defender, and probabilities p = softmax(f(clip(x + o_k, 0, 1))), the score of an image x is
//
//   -H(x),  H(x) = -(1 / N) sum_k sum_y p_y log2 p_y
//
// and the threshold is where a normal distribution, fitted to the H of clean images, has `frr` of its
// mass below.
//
// After Gao et al. (2019), and the authors' program (github.com/garrisongys/STRIP): 100 overlays,
// added with weight 1, entropy in bits, a normal fit at a false rejection rate of 1 %. Deviations:
//
//   * The overlays are drawn once, and the same for every image; the program draws 100 new ones for
//     each. A score then depends on nothing but the image.
//   * A sum is clipped to the range of pixels, because a model here takes images in [0, 1]. The
//     program adds its pixels as floats.
//   * The normal distribution is fitted to at most `calibration_images` of the defender's images that
//     are not overlays; the program fits it to the 2,000 clean images that it then scores.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/special_ndtri.h>

#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/plugin.hpp"

namespace {

class Strip final : public backstop::Defense, public backstop::InputDetector {
 public:
  explicit Strip(const backstop::Params& params)
      : overlay_count_(params.integer("overlays")),
        calibration_images_(params.integer("calibration_images")),
        frr_(params.number("frr")) {}

  void run(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    throw backstop::Error("strip only detects, and repairs no model", "name it in [[detector]]");
  }

  void* query(std::string_view interface_id) noexcept override {
    return interface_id == backstop::InputDetector::kId
               ? static_cast<backstop::InputDetector*>(this)
               : nullptr;
  }

  double prepare(backstop::Context& ctx, backstop::Model& model,
                 const backstop::DefenderData& data) override {
    const at::NoGradGuard no_gradients;
    const backstop::ImageSet& clean = data.clean();
    if (clean.size() == 0) throw backstop::ParameterError("strip needs clean images");
    // A single image is its own overlay.
    const std::int64_t half = std::max<std::int64_t>(clean.size() / 2, 1);
    const std::int64_t overlays = std::min(overlay_count_, half);
    const std::int64_t first = clean.size() == 1 ? 0 : overlays;
    const std::int64_t others = std::min(calibration_images_, clean.size() - first);
    if (overlays < overlay_count_)
      ctx.log(backstop::LogLevel::warning,
              "half of the clean images are the overlays: there are fewer than `overlays` says");
    const at::Tensor order = at::randperm(clean.size(), ctx.generator(), at::kLong);
    overlays_ = clean.images(order.narrow(0, 0, overlays));
    const at::Tensor own =
        scores(ctx, model, clean.images(order.narrow(0, first, others))).to(at::kDouble);
    const double quantile =
        at::special_ndtri(at::full({1}, frr_, at::kDouble)).item<double>();  // negative
    const double spread = others > 1 ? own.std().item<double>() : 0;
    return own.mean().item<double>() - quantile * spread;
  }

  at::Tensor scores(backstop::Context& ctx, backstop::Model& model,
                    const at::Tensor& images) override {
    at::Tensor scores = at::empty({images.size(0)}, at::kFloat);
    for (std::int64_t i = 0; i < images.size(0); ++i) {
      ctx.stop_if_cancelled();
      const at::Tensor blended = overlays_.add(images.select(0, i)).clamp(0, 1);
      const at::Tensor logs = model.forward(blended).log_softmax(1);
      scores.select(0, i).copy_(logs.exp().mul(logs).sum(1).mean().div(std::log(2)));
    }
    return scores;
  }

 private:
  std::int64_t overlay_count_, calibration_images_;
  double frr_;
  at::Tensor overlays_;  ///< [N, C, H, W]
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Strip)
