#include "inversion.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace backstop::neural_cleanse {

namespace {

/// Maps raw numbers to [0, 1].
at::Tensor squashed(const at::Tensor& raw) {
  return raw.tanh().div(2).add(0.5);
}

/// Adam for a tensor whose rows finish one by one.
class Adam {
 public:
  Adam(const at::Tensor& values, double rate)
      : rate_(rate), mean_(at::zeros_like(values)), square_(at::zeros_like(values)) {}

  void step(const at::Tensor& values, const at::Tensor& gradient) {
    ++steps_;
    mean_.mul_(kBeta1).add_(gradient, 1 - kBeta1);
    square_.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
    const double mean_bias = 1 - std::pow(kBeta1, steps_);
    const double square_bias = 1 - std::pow(kBeta2, steps_);
    values.addcdiv_(mean_, square_.div(square_bias).sqrt_().add_(kEpsilon), -rate_ / mean_bias);
  }
  void keep(const at::Tensor& rows) {
    mean_ = mean_.index_select(0, rows);
    square_ = square_.index_select(0, rows);
  }

 private:
  static constexpr double kBeta1 = 0.5, kBeta2 = 0.9, kEpsilon = 1e-8;
  double rate_, steps_ = 0;
  at::Tensor mean_, square_;
};

/// Counts the elements of the stages' outputs.
class MapCounter final : public ActivationSink {
 public:
  void activation(std::string_view, const at::Tensor& map) override { numbers += map.numel(); }
  std::int64_t numbers = 0;
};

/// Depends only on the model and the images, so that every machine does the same.
std::int64_t classes_that_fit(Model& model, const ImageSet& clean, std::int64_t batch_size) {
  constexpr double kMemory = 4.0 * (1 << 30);
  constexpr double kMapsPerStage = 10;  // about what a ResNet-18 stage keeps for the backward pass
  const at::NoGradGuard no_gradients;
  MapCounter counter;
  model.observe(clean.images(at::zeros({1}, at::kLong)), counter);
  const double image = static_cast<double>(counter.numbers) * kMapsPerStage * sizeof(float);
  const double batch = image * static_cast<double>(std::min(batch_size, clean.size()));
  return std::llround(std::clamp(std::floor(kMemory / std::max(batch, 1.0)), 1.0,
                                 static_cast<double>(model.classes())));
}

/// The state of one class.
struct Search {
  explicit Search(const Penalty::Settings& settings) : penalty(settings) {}
  Penalty penalty;
  double norm = std::numeric_limits<double>::infinity();  ///< the smallest of a working trigger
};

class Finder {
 public:
  Finder(Context& ctx, Model& model, const ImageSet& clean, const Settings& settings)
      : ctx_(ctx),
        model_(model),
        clean_(clean),
        settings_(settings),
        raw_(ctx.to_device(
            at::rand({model.classes(), 1 + clean.channels(), clean.height(), clean.width()},
                     ctx.generator())
                .mul_(2)
                .sub_(1)
                .clamp_(-kEdge, kEdge)
                .atanh_())),
        seed_(at::empty({1}, at::kLong).random_(ctx.generator()).item<std::int64_t>()),
        searches_(static_cast<std::size_t>(model.classes()), Search(settings.penalty)) {}

  /// Searches for the triggers of the classes first .. first + count - 1 side by side.
  void search(std::int64_t first, std::int64_t count) {
    // Every class sees the same batches, however many classes share a pass.
    at::Generator batches = ctx_.generator().clone();
    batches.set_current_seed(static_cast<std::uint64_t>(seed_));
    std::vector<std::int64_t> classes;
    for (std::int64_t c = first; c < first + count; ++c) classes.push_back(c);
    at::Tensor raw = raw_.narrow(0, first, count).clone().set_requires_grad(true);
    Adam adam(raw, settings_.rate);
    for (std::int64_t epoch = 0; epoch < settings_.epochs && !classes.empty(); ++epoch) {
      ctx_.progress(first * settings_.epochs + epoch * count, model_.classes() * settings_.epochs,
                    "epochs of trigger search");
      const std::vector<std::int64_t> rows = judge(classes, train(raw, adam, classes, batches));
      if (rows.size() == classes.size()) continue;
      const at::Tensor kept = ctx_.to_device(at::tensor(rows, at::kLong));
      raw = raw.detach().index_select(0, kept).set_requires_grad(true);
      adam.keep(kept);
      std::vector<std::int64_t> left;
      for (const std::int64_t row : rows) left.push_back(classes[static_cast<std::size_t>(row)]);
      classes = std::move(left);
    }
  }

  Triggers result() const {
    const at::Tensor values = squashed(raw_);
    const at::Tensor masks = values.narrow(1, 0, 1);
    Triggers triggers{.masks = masks,
                      .patterns = values.narrow(1, 1, clean_.channels()),
                      .norms = {},
                      .found = {}};
    const at::Tensor norms = norms_of(raw_);
    for (std::size_t c = 0; c < searches_.size(); ++c) {
      triggers.norms.push_back(norms.data_ptr<double>()[c]);
      triggers.found.push_back(std::isfinite(searches_[c].norm));
    }
    return triggers;
  }

 private:
  static constexpr double kEdge = 1 - 1e-6;  // the inverse of tanh is infinite at 1

  /// The sums of the masks, float64 [k] on the CPU.
  static at::Tensor norms_of(const at::Tensor& raw) {
    return squashed(raw.detach().select(1, 0)).to(at::kDouble).sum({1, 2}).to(at::kCPU);
  }

  struct Epoch {
    at::Tensor raw;               ///< as the last batch saw it, before the last step
    std::vector<double> success;  ///< share of the images that each trigger worked on
  };

  /// One pass over the clean images.
  Epoch train(const at::Tensor& raw, Adam& adam, const std::vector<std::int64_t>& classes,
              at::Generator& batches) {
    std::vector<float> weights;
    for (const std::int64_t c : classes)
      weights.push_back(static_cast<float>(of(c).penalty.weight()));
    const at::Tensor targets = ctx_.to_device(at::tensor(classes, at::kLong));
    const at::Tensor costs = ctx_.to_device(at::tensor(weights));
    const at::Tensor hits = at::zeros_like(targets);
    const at::Tensor order = at::randperm(clean_.size(), batches);
    at::Tensor seen;
    for (std::int64_t i = 0; i < clean_.size(); i += settings_.batch_size) {
      ctx_.stop_if_cancelled();
      const auto size = std::min(settings_.batch_size, clean_.size() - i);
      const Objective batch =
          objective(model_, clean_.images(order.narrow(0, i, size)), raw, targets, costs);
      raw.mutable_grad().reset();
      batch.loss.backward();
      const at::NoGradGuard no_gradients;
      seen = raw.detach().clone();
      adam.step(raw, raw.grad());
      hits.add_(batch.hits);
    }
    const at::Tensor shares =
        hits.to(at::kCPU, at::kDouble).div_(static_cast<double>(clean_.size()));
    return {seen, {shares.data_ptr<double>(), shares.data_ptr<double>() + shares.numel()}};
  }

  /// Keeps the best triggers and advances the penalties. Returns the rows of the classes that
  /// continue.
  std::vector<std::int64_t> judge(const std::vector<std::int64_t>& classes, const Epoch& epoch) {
    const at::Tensor norms = norms_of(epoch.raw);
    std::vector<std::int64_t> rows;
    for (std::size_t row = 0; row < classes.size(); ++row) {
      Search& search = of(classes[row]);
      const double norm = norms.data_ptr<double>()[row];
      const bool works = epoch.success[row] >= settings_.success_threshold;
      const bool smaller = works && norm < search.norm;
      // Until a trigger works, the latest one is kept.
      if (smaller || std::isinf(search.norm))
        raw_.select(0, classes[row]).copy_(epoch.raw.select(0, static_cast<std::int64_t>(row)));
      if (smaller) search.norm = norm;
      search.penalty.after_epoch(works, smaller);
      if (!search.penalty.stopped()) rows.push_back(static_cast<std::int64_t>(row));
    }
    return rows;
  }

  Search& of(std::int64_t c) { return searches_[static_cast<std::size_t>(c)]; }

  Context& ctx_;
  Model& model_;
  const ImageSet& clean_;
  const Settings& settings_;
  at::Tensor raw_;  ///< the best so far
  std::int64_t seed_;
  std::vector<Search> searches_;
};

}  // namespace

Objective objective(Model& model, const at::Tensor& images, const at::Tensor& raw,
                    const at::Tensor& targets, const at::Tensor& costs) {
  const at::Tensor values = squashed(raw);
  const at::Tensor masks = values.narrow(1, 0, 1);
  const at::Tensor patterns = values.narrow(1, 1, images.size(1));
  const std::int64_t n = images.size(0);
  const at::Tensor logits = model.forward(
      stamped(images.unsqueeze(0), masks.unsqueeze(1), patterns.unsqueeze(1)).flatten(0, 1));
  const at::Tensor labels = targets.repeat_interleave(n);
  const at::Tensor errors =
      at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum).div(static_cast<double>(n));
  return {errors.add(masks.sum({1, 2, 3}).mul(costs).sum()),
          logits.detach().argmax(1).eq(labels).view({-1, n}).sum(1)};
}

Triggers find_triggers(Context& ctx, Model& model, const ImageSet& clean,
                       const Settings& settings) {
  const c10::AutoGradMode gradients(true);
  const std::int64_t at_once = settings.classes_at_once > 0
                                   ? settings.classes_at_once
                                   : classes_that_fit(model, clean, settings.batch_size);
  Finder finder(ctx, model, clean, settings);
  for (std::int64_t first = 0; first < model.classes(); first += at_once)
    finder.search(first, std::min(at_once, model.classes() - first));
  return finder.result();
}

}  // namespace backstop::neural_cleanse
