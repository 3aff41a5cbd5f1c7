#include "host/engine/run/input_detection.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "host/engine/plugins/torch_state.hpp"
#include "host/report/roc.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

constexpr std::int64_t kBatch = 128;

/// The test images that are scored, clean ones first.
struct Subjects {
  const ImageStore& clean;
  const ImageStore& with_trigger;
  at::Tensor clean_positions, triggered_positions;
  at::Tensor targets;  ///< of the triggered ones

  [[nodiscard]] std::int64_t size() const {
    return clean_positions.numel() + triggered_positions.numel();
  }
  /// Those numbered `which` (int64 [m]).
  [[nodiscard]] at::Tensor images(const at::Tensor& which) const {
    const at::Tensor all_positions = at::cat({clean_positions, triggered_positions});
    const at::Tensor positions = all_positions.index_select(0, which);
    const at::Tensor triggered = which.ge(clean_positions.numel());
    at::Tensor images = clean.images(positions);
    if (triggered.any().item<bool>()) {
      const at::Tensor places = triggered.nonzero().flatten();
      images.index_copy_(0, places.to(images.device()),
                         with_trigger.images(positions.index_select(0, places)));
    }
    return images;
  }
};

/// Positions of images that the trigger changes, of those at `positions`.
at::Tensor changed(const TriggeredSet& triggered, const ImageStore& clean,
                   const at::Tensor& positions) {
  std::vector<at::Tensor> kept;
  for (const at::Tensor& part : positions.split(1024)) {
    const at::Tensor differs =
        triggered.images.pixels(part).ne(clean.pixels(part)).flatten(1).any(1).to(at::kCPU);
    kept.push_back(part.index({differs}));
  }
  return kept.empty() ? positions : at::cat(kept);
}

Subjects subjects_of(const DefenseInputs& inputs) {
  const ImageStore& test = inputs.task->data.test;
  // The same images for all detectors of a seed.
  at::Generator generator = make_generator(seed_for(inputs.seed, "scored test images"));
  const std::int64_t most =
      inputs.test_images == 0 ? test.size() : std::min(inputs.test_images, test.size());
  const at::Tensor chosen = at::randperm(test.size(), generator, at::kLong).narrow(0, 0, most);
  const TriggeredSet& triggered = *inputs.triggered;
  const at::Tensor labels = test.labels().to(at::kCPU), targets = triggered.targets.to(at::kCPU);
  const at::Tensor other_class =
      chosen.index({labels.index_select(0, chosen).ne(targets.index_select(0, chosen))});
  const at::Tensor positions = changed(triggered, test, other_class);
  return {test, triggered.images, chosen, positions, targets.index_select(0, positions)};
}

std::vector<double> numbers(const at::Tensor& scores) {
  const at::Tensor all = scores.contiguous();
  return {all.data_ptr<double>(), all.data_ptr<double>() + all.numel()};
}

/// Null where there is nothing to have a share of.
json share_at_least(const std::vector<double>& scores, double threshold) {
  if (scores.empty()) return nullptr;
  const auto reached = std::count_if(scores.begin(), scores.end(),
                                     [threshold](double score) { return score >= threshold; });
  return static_cast<double>(reached) / static_cast<double>(scores.size());
}

/// At most kPoints of the curve, evenly spread, for the figure.
json figure_of(const std::vector<report::RocPoint>& curve) {
  constexpr std::size_t kPoints = 200;
  json x = json::array(), y = json::array();
  const std::size_t shown = std::min(curve.size(), kPoints);
  for (std::size_t i = 0; i < shown; ++i) {
    const auto& point = curve[shown == 1 ? 0 : i * (curve.size() - 1) / (shown - 1)];
    x.push_back(point.false_positive_rate);
    y.push_back(point.true_positive_rate);
  }
  return {{"x", x}, {"y", y}};
}

InputDetector& input_detector(const PluginObject& plugin) {
  void* found = plugin.as<Defense>().query(InputDetector::kId);
  if (found == nullptr)
    throw Error("its manifest says that it scores images, but it offers no InputDetector",
                "return it from Defense::query");
  return *static_cast<InputDetector*>(found);
}

/// Of all subjects, in their order.
at::Tensor scores_of(InputDetector& detector, StageContext& ctx, Classifier& model,
                     const Subjects& subjects) {
  const at::NoGradGuard no_gradients;
  const std::int64_t all = subjects.size();
  at::Generator generator = make_generator(1);  // a fixed order
  const at::Tensor order = at::randperm(all, generator, at::kLong);
  at::Tensor scores = at::empty({all}, at::kDouble);
  for (std::int64_t first = 0; first < all; first += kBatch) {
    ctx.stop_if_cancelled();
    ctx.progress(first, all, "images scored");
    const at::Tensor which = order.narrow(0, first, std::min(kBatch, all - first));
    const at::Tensor images = subjects.images(which);
    const at::Tensor part = checked_scores(detector, ctx, model, images);
    if (first == 0) require_independent_scores(detector, ctx, model, images, part);
    scores.index_copy_(0, which, part);
  }
  ctx.progress(all, all, "images scored");
  return scores;
}

/// bool [n]: the model leads the triggered image to its target.
at::Tensor successful(StageContext& ctx, Classifier& model, const Subjects& subjects) {
  if (subjects.triggered_positions.numel() == 0) return at::zeros({0}, at::kBool);
  const ImageStore images = subjects.with_trigger.subset(subjects.triggered_positions);
  return ctx.trainer().logits(model, images).argmax(1).to(at::kCPU).eq(subjects.targets);
}

}  // namespace

at::Tensor checked_scores(InputDetector& detector, Context& ctx, Model& model,
                          const at::Tensor& images) {
  const at::Tensor scores = detector.scores(ctx, model, images);
  if (!scores.defined() || scores.dim() != 1 || scores.size(0) != images.size(0))
    throw Error(
        fmt::format("scores() returned {} for {} images",
                    scores.defined() ? fmt::format("a tensor of {} numbers in {} dimensions",
                                                   scores.numel(), scores.dim())
                                     : "an undefined tensor",
                    images.size(0)),
        "return one number for each image: [n]");
  const at::Tensor numbers = scores.detach().to(at::kCPU, at::kDouble);
  const at::Tensor broken = at::isfinite(numbers).logical_not();
  if (broken.any().item<bool>())
    throw Error(fmt::format("scores() returned {} for an image",
                            numbers.index({broken}).select(0, 0).item<double>()),
                "a score must be a finite number");
  return numbers;
}

void require_independent_scores(InputDetector& detector, Context& ctx, Model& model,
                                const at::Tensor& images, const at::Tensor& scores) {
  // Other sizes of batches round differently, which may move an image over a step of its score.
  constexpr double kRounding = 0.01, kFewImages = 0.05;
  const std::int64_t n = images.size(0), half = n / 2;
  if (half == 0) return;
  const at::Tensor apart =
      at::cat({checked_scores(detector, ctx, model, images.narrow(0, 0, half)),
               checked_scores(detector, ctx, model, images.narrow(0, half, n - half))});
  const double spread = (scores.max() - scores.min()).item<double>();
  const at::Tensor differs = apart.sub(scores).abs().gt(kRounding * std::fmax(spread, 1e-6));
  const auto others = differs.sum().item<std::int64_t>();
  if (static_cast<double>(others) > std::fmax(1, kFewImages * static_cast<double>(n)))
    throw Error(
        fmt::format("{} of {} images get another score in a batch of half the size", others, n),
        "the score of an image must not depend on the other images of its batch, nor on "
        "the order of calls");
}

json score_inputs(const PluginObject& plugin, StageContext& ctx, Classifier& model,
                  const DefenderData& data, const DefenseInputs& inputs) {
  model.set_training(false);
  const Subjects subjects = subjects_of(inputs);
  const double threshold = call(plugin, "prepare", ctx, [&] {
    const double own = input_detector(plugin).prepare(ctx, model, data);
    if (!std::isfinite(own)) throw Error(fmt::format("prepare() returned the threshold {}", own));
    return own;
  });
  model.set_training(false);
  const at::Tensor scores = call(plugin, "scores", ctx, [&] {
    return scores_of(input_detector(plugin), ctx, model, subjects);
  });

  const std::int64_t clean_images = subjects.clean_positions.numel();
  const at::Tensor of_triggered = scores.narrow(0, clean_images, scores.numel() - clean_images);
  const at::Tensor succeeded = successful(ctx, model, subjects);
  const std::vector<double> clean = numbers(scores.narrow(0, 0, clean_images));
  const std::vector<double> triggered = numbers(of_triggered);
  const std::vector<double> obeyed = numbers(of_triggered.index({succeeded}));
  const auto curve = report::roc_curve(clean, triggered);
  json row = report::separation(curve);
  row["auroc_successful"] = report::separation(report::roc_curve(clean, obeyed))["auroc"];
  row["threshold"] = threshold;
  row["true_positive_rate"] = share_at_least(triggered, threshold);
  row["false_positive_rate"] = share_at_least(clean, threshold);
  row["clean"] = clean.size();
  row["triggered"] = triggered.size();
  row["successful"] = obeyed.size();
  row["roc"] = figure_of(curve);
  return row;
}

}  // namespace backstop::engine
