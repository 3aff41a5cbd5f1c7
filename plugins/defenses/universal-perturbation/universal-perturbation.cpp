// Universal perturbations: with a backdoor whose trigger covers the image (Blended, sinusoids), one
// faint change d of all pixels moves any image into the target class. For every class y, find the d
// [C, H, W] that minimizes
//
//   mean CE(f(clip(x + d, 0, 1)), y) + cost * |d|_2
//
// on clean images x, for the frozen model f, and works on 95 % of them. Classes differ by factors,
// so the logarithms of the norms are compared: with l = log |d|_2, a class is suspicious if
// (median - l) / (1.4826 * MAD) reaches the threshold.
//
// After Xiang, Miller and Kesidis (2020), who search an additive perturbation of small L2 norm that
// moves 95 % of the images of one class into another, for every pair of classes, and test whether
// the reciprocal of the smallest norm is an outlier. Deviations:
//
//   * One search for each target class, on images of all classes, in place of one for each pair: a
//     tenth of the work with ten classes. Attacks on images of a single class may be missed.
//   * They stop as soon as the perturbation works; here the cost of the norm is then raised and
//     lowered on the schedule of Neural Cleanse (../../shared/trigger-search/penalty.hpp), because
//     the norm at which a search happens to arrive depends on the length of its steps.
//   * The median absolute deviation of logarithms in place of a gamma distribution fitted to
//     reciprocals: with ten classes a fit is decided by one or two of them. The deviation counts as
//     at least 0.25, so that a norm more than half the median is never suspicious.
//
// Adam as in Neural Cleanse (betas 0.5 and 0.9). The rates, the schedule and the threshold are
// ours; docs/scan.md says on which models they were chosen, and on which they were measured.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/model_detector.hpp"
#include "backstop/plugin.hpp"
#include "perturbation.hpp"
#include "search.hpp"

namespace {

using backstop::trigger_search::Triggers;
using backstop::universal_perturbation::Perturbation;
using backstop::universal_perturbation::perturbed;

class UniversalPerturbation final : public backstop::Defense, public backstop::ModelDetector {
 public:
  explicit UniversalPerturbation(const backstop::Params& params)
      : threshold_(params.number("threshold")) {
    search_.rounds = params.integer("rounds");
    search_.round_steps = params.integer("round_steps");
    search_.batch_size = params.integer("batch_size");
    search_.classes_at_once = params.integer("classes_at_once");
    search_.rate = params.number("rate");
    search_.success_threshold = params.number("success_threshold");
    search_.tolerance = params.number("tolerance");
    search_.penalty = {.initial = params.number("initial_cost"),
                       .multiplier = params.number("multiplier"),
                       .patience = params.integer("patience"),
                       .early_stop = params.integer("early_stop")};
  }

  void run(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    throw backstop::Error("universal-perturbation only detects, and repairs no model",
                          "name it in [[detector]]");
  }

  void* query(std::string_view interface_id) noexcept override {
    return interface_id == backstop::ModelDetector::kId
               ? static_cast<backstop::ModelDetector*>(this)
               : nullptr;
  }

  void detect(backstop::Context& ctx, backstop::Model& model, const backstop::DefenderData& data,
              backstop::ModelVerdict& verdict) override {
    if (model.classes() < 3) {
      verdict.inconclusive("with two classes, no perturbation can stand out from the others");
      return;
    }
    const bool training = model.training();
    model.set_training(false);
    model.set_trainable(backstop::Part::none);
    const Triggers triggers = find_triggers(ctx, model, data.clean(), Perturbation(), search_,
                                            "rounds of perturbation search");
    model.set_trainable(backstop::Part::whole);
    model.set_training(training);
    draw(ctx, data.clean(), triggers);
    judge(ctx, triggers, verdict);
  }

 private:
  static void draw(backstop::Context& ctx, const backstop::ImageSet& images,
                   const Triggers& triggers) {
    const at::Tensor image = images.images(at::zeros({1}, at::kLong));
    for (std::int64_t c = 0; c < triggers.raw.size(0); ++c) {
      const at::Tensor change = triggers.raw.select(0, c).unsqueeze(0);
      const double largest = std::max(change.abs().max().item<double>(), 1e-12);
      ctx.artifact("perturbation " + std::to_string(c), change.squeeze(0));
      ctx.picture("class " + std::to_string(c) + ": perturbation (full contrast), image with it",
                  at::cat({change.div(2 * largest).add(0.5), perturbed(image, change)}));
    }
  }

  void judge(backstop::Context& ctx, const Triggers& triggers,
             backstop::ModelVerdict& verdict) const {
    const backstop::trigger_search::Judgment judgment =
        backstop::trigger_search::judge(triggers, threshold_);
    const auto pixels = static_cast<double>(triggers.raw.select(0, 0).numel());
    const auto levels = [&](double norm) { return 255 * norm / std::sqrt(pixels); };
    for (std::size_t c = 0; c < triggers.sizes.size(); ++c) {
      const auto label = static_cast<std::int64_t>(c);
      verdict.class_number(label, "grey_levels", levels(triggers.sizes[c]));
      verdict.class_number(label, "log_index", judgment.indices[c]);
    }
    for (const std::int64_t label : judgment.suspects) {
      const auto c = static_cast<std::size_t>(label);
      std::ostringstream text;
      text.precision(1);
      text << std::fixed << "is reached by adding one pattern of " << levels(triggers.sizes[c])
           << " grey levels to any image, where the median class needs "
           << levels(std::exp(judgment.spread.median)) << " (index " << judgment.indices[c] << ")";
      verdict.suspect(label, text.str());
    }
    conclude(ctx, verdict, judgment, threshold_, unfinished(triggers, search_, "perturbations"));
  }

  backstop::trigger_search::Settings search_;
  double threshold_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, UniversalPerturbation)
