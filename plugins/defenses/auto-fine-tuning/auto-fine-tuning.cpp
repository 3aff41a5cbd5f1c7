// Super-fine-tuning ("Fine-Tuning Is All You Need to Mitigate Backdoor Attacks", section 3.2) that
// chooses the peak of its first phase itself, from the clean images and without a trigger.
//
// The paper's peak of 0.1 suits its networks and 50,000 images. A larger peak forgets more of a
// trigger, and of everything else: the right one is the largest from which the second phase brings
// clean accuracy back. So a share of the clean images is held out, the same of each class, and
// copies of the model go through both phases on the others, one for each peak that is tried: from
// the paper's up while the copy's accuracy on the held-out images comes back to that of the
// original, or else down until it does. The copy of the largest peak that came back is the result.
// "Comes back" allows for `tolerance` and one standard
// error of the difference, which has both models on the same images: the rule of one standard error
// of Breiman et al., "Classification and Regression Trees" (1984), which takes the most drastic
// choice that cannot be told from the best. A peak at which training diverges does not come back.
//
// Where no peak brings accuracy back, because there are too few images, the largest that comes back
// to the best of them is taken, with a warning. So it is where the original does not classify these
// images, because its head is new.
//
// The result is the copy that was judged, which has not seen the held-out images. Training once more
// on all of them would use a quarter more images, but nothing would be left to judge it by, and a
// peak near the limit may diverge the second time.
//
// Where nothing can be held out, or all images are of one class, the paper's 0.1 is used on all of
// them, with a warning.
//
// Phases are counted in iterations, rounded up to whole epochs: with 25 images, the paper's ten
// epochs of batches of 128 would be ten steps. The batches of an epoch are made equal in size,
// because batch normalization learns nothing good from a last one of two images.
//
// The base, the second maximum and the shape are the paper's. The grid of peaks, the share held out
// and the lengths are ours.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/tensor.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"
#include "rule.hpp"
#include "two_phases.hpp"

namespace {

using backstop::Context;
using backstop::ImageSet;
using backstop::LogLevel;
using backstop::Model;
using backstop::ParameterError;
namespace rule = backstop::auto_fine_tuning;

std::int64_t divided_up(std::int64_t a, std::int64_t b) {
  return (a - 1) / b + 1;
}

/// A model on the held-out images. Without `correct` its outputs are no numbers.
struct Outcome {
  Model* model = nullptr;
  at::Tensor correct = {};  ///< bool [n] on the CPU
  double accuracy = 0;
  double loss = 0;

  bool diverged() const { return !correct.defined(); }
};

/// Why images with these numbers of each class cannot be split into some to train on and some to
/// judge by; empty when they can.
std::string_view why_unjudged(const at::Tensor& counts) {
  if (counts.max().item<std::int64_t>() < 2)
    return "no class has two clean images, so none can be held out";
  if (counts.numel() > 1 && counts.gt(0).sum().item<std::int64_t>() == 1)
    return "all clean images are of one class, which a model that answers nothing else gets right";
  return {};
}

class AutoFineTuning final : public backstop::Defense {
 public:
  explicit AutoFineTuning(const backstop::Params& params)
      : peaks_(params.numbers("peaks").begin(), params.numbers("peaks").end()),
        tolerance_(params.number("tolerance")),
        holdout_(params.number("holdout")),
        phase_1_steps_(params.integer("phase_1_steps")),
        phase_2_steps_(params.integer("phase_2_steps")),
        base_(params.number("base")),
        maximum_2_(params.number("maximum_2")),
        batch_size_(params.integer("batch_size")),
        optimizer_(params.optimizer("optimizer")) {
    if (peaks_.empty()) throw ParameterError("`peaks` is empty", "give at least one");
    if (!std::is_sorted(peaks_.begin(), peaks_.end()))
      throw ParameterError("`peaks` must be in increasing order");
    if (base_ > maximum_2_ || base_ > peaks_.front())
      throw ParameterError(
          (
              std::ostringstream()
              << "`base` must be at most `maximum_2` and the smallest of `peaks`, got " << base_
              << ", " << maximum_2_ << " and " << peaks_.front())
              .str());
  }

  void run(Context& ctx, Model& model, const backstop::DefenderData& data) override {
    const ImageSet& clean = data.clean();
    const at::Tensor labels = clean.labels().cpu();
    const at::Tensor counts = labels.bincount({}, clean.classes());
    if (const std::string_view why = why_unjudged(counts); !why.empty()) {
      ctx.log(LogLevel::warning,
              std::string(why) + ": the paper's peak of 0.1 is used, and nothing is judged");
      train(ctx, model, clean, kPapersPeak);
      ctx.metric("peak", kPapersPeak);
      ctx.metric("held_out_images", 0);
      return;
    }
    if (const auto without = counts.eq(0).sum().item<std::int64_t>(); without > 0)
      ctx.log(LogLevel::warning,
              (std::ostringstream() << "the model may unlearn classes without clean images: "
                                    << without << " of " << counts.numel())
                  .str());
    const rule::Split split = rule::split(labels, holdout_, ctx.generator());
    const ImageSet& training = ctx.subset(clean, split.training);
    const ImageSet& held_out = ctx.subset(clean, split.held_out);

    Outcome before{.model = &model};
    judge(ctx, before, held_out);
    if (before.diverged())
      throw ParameterError("the model's outputs for clean images are not finite numbers");
    const bool knows = !rule::at_chance(before.correct, held_out.labels().cpu());

    std::map<double, Outcome> tried;
    const auto comes_back = [&](double peak) {
      Outcome& outcome = tried[peak];
      outcome.model = &ctx.clone(model);
      try_peak(ctx, peak, outcome, training, held_out);
      return rule::comes_back(before.correct, outcome.correct, tolerance_);
    };
    const std::optional<double> back =
        knows ? rule::largest(peaks_, kPapersPeak, comes_back) : std::nullopt;
    if (!knows) std::for_each(peaks_.begin(), peaks_.end(), comes_back);
    const double chosen = back ? *back : nearest(tried);
    model.copy_from(*tried.at(chosen).model);
    report(ctx, tried, chosen, before, knows, back.has_value());
  }

 private:
  static constexpr double kPapersPeak = 0.1;

  /// Both phases, which throws Error when the loss is no longer finite.
  void train(Context& ctx, Model& model, const ImageSet& images, double peak) const {
    const std::int64_t steps = divided_up(images.size(), batch_size_);  // of an epoch
    const std::int64_t phase_1_epochs = divided_up(phase_1_steps_, steps);
    const std::int64_t phase_2_epochs = divided_up(phase_2_steps_, steps);
    ctx.metric("phase_1_epochs", static_cast<double>(phase_1_epochs));
    ctx.metric("phase_2_epochs", static_cast<double>(phase_2_epochs));
    ctx.metric("steps", static_cast<double>((phase_1_epochs + phase_2_epochs) * steps));

    const rule::TwoPhases scheduler(base_, peak, std::min(maximum_2_, peak), phase_1_epochs);
    backstop::TrainingOptions options;
    options.epochs = phase_1_epochs + phase_2_epochs;
    options.batch_size = divided_up(images.size(), steps);
    options.scheduler = &scheduler;
    options.optimizer = optimizer_;
    ctx.trainer().fit(model, images, options);
  }

  /// Trains the outcome's model, and judges it unless the training diverges.
  void try_peak(Context& ctx, double peak, Outcome& outcome, const ImageSet& training,
                const ImageSet& held_out) const {
    try {
      train(ctx, *outcome.model, training, peak);
    } catch (const backstop::Cancelled&) {
      throw;
    } catch (const backstop::Error&) {
      return;
    }
    judge(ctx, outcome, held_out);
  }

  static void judge(Context& ctx, Outcome& outcome, const ImageSet& held_out) {
    const at::Tensor logits = ctx.trainer().logits(*outcome.model, held_out);
    const auto loss = at::cross_entropy_loss(logits, held_out.labels()).item<double>();
    if (!std::isfinite(loss)) return;
    outcome.loss = loss;
    outcome.correct = logits.argmax(1).eq(held_out.labels()).cpu();
    outcome.accuracy = outcome.correct.to(at::kDouble).mean().item<double>();
  }

  /// The largest peak that comes back to the most accurate outcome.
  double nearest(const std::map<double, Outcome>& tried) const {
    const auto& most =
        std::max_element(tried.begin(), tried.end(), [](const auto& a, const auto& b) {
          return std::pair(!a.second.diverged(), a.second.accuracy) <
                 std::pair(!b.second.diverged(), b.second.accuracy);
        })->second;
    if (most.diverged())
      throw ParameterError(
          (std::ostringstream() << "training diverges at every peak from " << tried.begin()->first
                                << " to " << tried.rbegin()->first)
              .str(),
          "give smaller `peaks`");
    return std::find_if(tried.rbegin(), tried.rend(),
                        [&](const auto& entry) {
                          return rule::comes_back(most.correct, entry.second.correct, tolerance_);
                        })
        ->first;
  }

  static void report(Context& ctx, const std::map<double, Outcome>& tried, double chosen,
                     const Outcome& before, bool knows, bool back) {
    std::vector<double> peaks, accuracies, finite, losses;
    for (const auto& [peak, outcome] : tried) {
      peaks.push_back(peak);
      accuracies.push_back(outcome.accuracy);
      if (outcome.diverged()) continue;
      finite.push_back(peak);
      losses.push_back(outcome.loss);
    }
    ctx.artifact("held-out accuracy by peak.x", at::tensor(peaks));
    ctx.artifact("held-out accuracy by peak.y", at::tensor(accuracies));
    ctx.artifact("held-out loss by peak.x", at::tensor(finite));
    ctx.artifact("held-out loss by peak.y", at::tensor(losses));
    ctx.metric("peak", chosen);
    ctx.metric("held_out_images", static_cast<double>(before.correct.numel()));
    ctx.metric("held_out_accuracy_before", before.accuracy);
    ctx.metric("held_out_accuracy_after", tried.at(chosen).accuracy);

    std::ostringstream text;
    text << std::setprecision(3);
    if (!knows)
      text << "the model gets " << before.accuracy << " of " << before.correct.numel()
           << " held-out images right, no more than chance, so the peak is chosen by the best "
           << "accuracy after training; ";
    else if (!back)
      text << "no peak from " << tried.begin()->first << " to " << tried.rbegin()->first
           << " brings held-out accuracy back: there may be too few clean images; ";
    text << "peak " << chosen << ": the largest from which held-out accuracy comes "
         << (back ? "back (" : "near the best of them (") << before.accuracy << " before, "
         << tried.at(chosen).accuracy << " after";
    if (const auto next = tried.upper_bound(chosen); next != tried.end()) {
      text << "; " << next->first;
      if (next->second.diverged())
        text << " diverges";
      else
        text << " ends at " << next->second.accuracy;
    }
    text << ')';
    ctx.log(back ? LogLevel::info : LogLevel::warning, text.str());
  }

  std::vector<double> peaks_;
  double tolerance_, holdout_;
  std::int64_t phase_1_steps_, phase_2_steps_;
  double base_, maximum_2_;
  std::int64_t batch_size_;
  backstop::OptimizerOptions optimizer_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, AutoFineTuning)
