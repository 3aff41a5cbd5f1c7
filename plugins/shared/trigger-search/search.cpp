#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "backstop/training_state.hpp"

namespace backstop::trigger_search {

namespace {

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
  void save(StateWriter& state) const {
    state.tensor("steps", at::scalar_tensor(steps_, at::kDouble));
    state.tensor("mean", mean_);
    state.tensor("square", square_);
  }
  void load(const StateReader& state) {
    steps_ = state.tensor("steps").item<double>();
    mean_ = state.tensor("mean").to(mean_.device());
    square_ = state.tensor("square").to(square_.device());
  }

 private:
  static constexpr double kBeta1 = 0.5, kBeta2 = 0.9, kEpsilon = 1e-8;
  double rate_, steps_ = 0;
  at::Tensor mean_, square_;
};

/// Counts the elements of the stages' outputs.
class MapCounter final : public ActivationSink {
 public:
  at::Tensor activation(std::string_view, const at::Tensor& map) override {
    numbers += map.numel();
    return map;
  }
  std::int64_t numbers = 0;
};

/// Depends only on the model and the images, so that every machine does the same.
std::int64_t classes_that_fit(Model& model, const ImageSet& images, std::int64_t batch_size) {
  constexpr double kMemory = 4.0 * (1 << 30);
  constexpr double kMapsPerStage = 10;  // about what a ResNet-18 stage keeps for the backward pass
  const at::NoGradGuard no_gradients;
  MapCounter counter;
  model.observe(images.images(at::zeros({1}, at::kLong)), counter);
  const double image = static_cast<double>(counter.numbers) * kMapsPerStage * sizeof(float);
  const double batch = image * static_cast<double>(std::min(batch_size, images.size()));
  return std::llround(std::clamp(std::floor(kMemory / std::max(batch, 1.0)), 1.0,
                                 static_cast<double>(model.classes())));
}

/// Endless batches of positions, pass after pass over a set in random order.
class Batches {
 public:
  Batches(std::int64_t size, std::int64_t batch_size, at::Generator generator)
      : size_(size), batch_size_(batch_size), generator_(std::move(generator)), next_(size) {}

  at::Tensor next() {
    if (next_ == size_) {
      order_ = at::randperm(size_, generator_);
      next_ = 0;
    }
    const std::int64_t count = std::min(batch_size_, size_ - next_);
    const at::Tensor positions = order_.narrow(0, next_, count);
    next_ += count;
    return positions;
  }
  void save(StateWriter& state) const {
    state.tensor("generator", generator_.get_state());
    state.tensor("next", at::scalar_tensor(next_, at::kLong));
    if (order_.defined()) state.tensor("order", order_);
  }
  void load(const StateReader& state) {
    generator_.set_state(state.tensor("generator"));
    next_ = state.tensor("next").item<std::int64_t>();
    if (state.has("order")) order_ = state.tensor("order");
  }

 private:
  std::int64_t size_, batch_size_;
  at::Generator generator_;
  std::int64_t next_;
  at::Tensor order_;
};

/// The state of one class.
struct Search {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  explicit Search(const Penalty::Settings& settings) : penalty(settings) {}
  Penalty penalty;
  double size = kNone;   ///< the smallest of a working trigger
  double stage = kNone;  ///< the one that last counted as progress
};

class Finder {
 public:
  Finder(Context& ctx, Model& model, const ImageSet& images, const Form& form,
         const Settings& settings, std::string_view what)
      : ctx_(ctx),
        model_(model),
        images_(images),
        form_(form),
        settings_(settings),
        what_(what),
        raw_(ctx.to_device(form.start(images, model.classes(), ctx.generator()))),
        seed_(at::empty({1}, at::kLong).random_(ctx.generator()).item<std::int64_t>()),
        round_steps_(settings.round_steps > 0
                         ? settings.round_steps
                         : (images.size() + settings.batch_size - 1) / settings.batch_size),
        searches_(static_cast<std::size_t>(model.classes()), Search(settings.penalty)) {}

  /// Searches for the triggers of the classes first .. first + count - 1 side by side.
  void search(std::int64_t first, std::int64_t count) {
    Group group(*this, first, count);
    KeptLoop loop(ctx_, group);
    std::vector<std::int64_t>& classes = group.classes;
    for (std::int64_t round = loop.done(); round < settings_.rounds && !classes.empty(); ++round) {
      ctx_.progress(first * settings_.rounds + round * count, model_.classes() * settings_.rounds,
                    what_);
      const std::vector<std::int64_t> rows =
          judge(classes, train(group.raw, group.adam, classes, group.batches));
      if (rows.size() < classes.size()) group.keep(rows);
      loop.advance(round + 1, round + 1 == settings_.rounds || classes.empty());
    }
  }

  Triggers result() const {
    Triggers triggers{.raw = raw_, .sizes = {}, .found = {}, .converged = {}};
    const at::Tensor sizes = form_.sizes(raw_);
    for (std::size_t c = 0; c < searches_.size(); ++c) {
      triggers.sizes.push_back(sizes.data_ptr<double>()[c]);
      triggers.found.push_back(std::isfinite(searches_[c].size));
      triggers.converged.push_back(searches_[c].penalty.stopped());
    }
    return triggers;
  }

 private:
  struct Round {
    at::Tensor raw;               ///< as the last batch saw it, before the last step
    std::vector<double> success;  ///< share of the images that each trigger worked on
  };

  /// What the search for some classes is in the middle of.
  struct Group final : TrainingState {
    Group(Finder& f, std::int64_t first_class, std::int64_t count)
        : finder(f),
          first(first_class),
          raw(f.raw_.narrow(0, first, count).clone().set_requires_grad(true)),
          adam(raw, f.settings_.rate),
          batches(f.images_.size(), f.settings_.batch_size, f.same_generator()) {
      for (std::int64_t c = first; c < first + count; ++c) classes.push_back(c);
      all = classes;
    }

    /// The classes of these rows go on.
    void keep(const std::vector<std::int64_t>& rows) {
      const at::Tensor kept = finder.ctx_.to_device(at::tensor(rows, at::kLong));
      raw = raw.detach().index_select(0, kept).set_requires_grad(true);
      adam.keep(kept);
      std::vector<std::int64_t> left;
      for (const std::int64_t row : rows) left.push_back(classes[static_cast<std::size_t>(row)]);
      classes = std::move(left);
    }

    void save(StateWriter& state) const override {
      state.tensor("raw", raw);
      state.tensor("classes", at::tensor(classes, at::kLong));
      adam.save(state);
      batches.save(state);
      state.tensor("best", finder.raw_.narrow(0, first, std::ssize(all)));
      std::vector<double> numbers;
      for (const std::int64_t c : all) {
        const Search& search = finder.of(c);
        const Penalty::State& p = search.penalty.state();
        for (const double number :
             {search.size, search.stage, p.weight, static_cast<double>(p.successes),
              static_cast<double>(p.failures), static_cast<double>(p.stale), p.found ? 1.0 : 0.0,
              p.raised ? 1.0 : 0.0, p.lowered ? 1.0 : 0.0, p.stopped ? 1.0 : 0.0})
          numbers.push_back(number);
      }
      state.tensor("searches", at::tensor(numbers, at::kDouble));
    }

    void load(const StateReader& state) override {
      const at::NoGradGuard no_gradients;
      raw = finder.ctx_.to_device(state.tensor("raw")).set_requires_grad(true);
      const at::Tensor left = state.tensor("classes");
      classes.assign(left.data_ptr<std::int64_t>(), left.data_ptr<std::int64_t>() + left.numel());
      adam.load(state);
      batches.load(state);
      finder.raw_.narrow(0, first, std::ssize(all)).copy_(state.tensor("best"));
      const at::Tensor kept = state.tensor("searches");
      constexpr std::int64_t kNumbers = 10;  // of a class
      if (kept.numel() != kNumbers * std::ssize(all) ||
          std::any_of(classes.begin(), classes.end(), [&](std::int64_t c) {
            return std::find(all.begin(), all.end(), c) == all.end();
          }))
        throw Error("the state of a trigger search is not that of these classes");
      const auto* number = kept.data_ptr<double>();
      for (const std::int64_t c : all) {
        Search& search = finder.of(c);
        search.size = *number++;
        search.stage = *number++;
        Penalty::State p;
        p.weight = *number++;
        for (std::int64_t* count : {&p.successes, &p.failures, &p.stale})
          *count = static_cast<std::int64_t>(*number++);
        for (bool* flag : {&p.found, &p.raised, &p.lowered, &p.stopped}) *flag = *number++ != 0;
        search.penalty.set_state(p);
      }
    }

    Finder& finder;
    std::int64_t first;
    at::Tensor raw;  ///< of the classes that go on
    Adam adam;       ///< theirs
    Batches batches;
    std::vector<std::int64_t> classes, all;  ///< that go on; at the beginning
  };

  /// Every class sees the same batches, however many classes share a pass.
  [[nodiscard]] at::Generator same_generator() const {
    at::Generator generator = ctx_.generator().clone();
    generator.set_current_seed(static_cast<std::uint64_t>(seed_));
    return generator;
  }

  Round train(const at::Tensor& raw, Adam& adam, const std::vector<std::int64_t>& classes,
              Batches& batches) {
    std::vector<float> weights;
    for (const std::int64_t c : classes)
      weights.push_back(static_cast<float>(of(c).penalty.weight()));
    const at::Tensor targets = ctx_.to_device(at::tensor(classes, at::kLong));
    const at::Tensor costs = ctx_.to_device(at::tensor(weights));
    const at::Tensor hits = at::zeros_like(targets);
    std::int64_t images = 0;
    at::Tensor seen;
    for (std::int64_t step = 0; step < round_steps_; ++step) {
      ctx_.stop_if_cancelled();
      const at::Tensor positions = batches.next();
      const Objective batch =
          objective(model_, form_, images_.images(positions), raw, targets, costs);
      raw.mutable_grad().reset();
      batch.loss.backward();
      const at::NoGradGuard no_gradients;
      seen = raw.detach().clone();
      adam.step(raw, raw.grad());
      hits.add_(batch.hits);
      images += positions.size(0);
    }
    const at::Tensor shares = hits.to(at::kCPU, at::kDouble).div_(static_cast<double>(images));
    return {seen, {shares.data_ptr<double>(), shares.data_ptr<double>() + shares.numel()}};
  }

  /// Keeps the best triggers and advances the penalties. Returns the rows of the classes that
  /// continue.
  std::vector<std::int64_t> judge(const std::vector<std::int64_t>& classes, const Round& round) {
    const at::Tensor sizes = form_.sizes(round.raw);
    std::vector<std::int64_t> rows;
    for (std::size_t row = 0; row < classes.size(); ++row) {
      Search& search = of(classes[row]);
      const double size = sizes.data_ptr<double>()[row];
      const bool works = round.success[row] >= settings_.success_threshold;
      const bool smaller = works && size < search.size;
      const bool progress = works && size < search.stage * (1 - settings_.tolerance);
      // Until a trigger works, the latest one is kept.
      if (smaller || std::isinf(search.size))
        raw_.select(0, classes[row]).copy_(round.raw.select(0, static_cast<std::int64_t>(row)));
      if (smaller) search.size = size;
      if (progress) search.stage = size;
      search.penalty.after_round(works, progress);
      if (!search.penalty.stopped()) rows.push_back(static_cast<std::int64_t>(row));
    }
    return rows;
  }

  Search& of(std::int64_t c) { return searches_[static_cast<std::size_t>(c)]; }

  Context& ctx_;
  Model& model_;
  const ImageSet& images_;
  const Form& form_;
  const Settings& settings_;
  std::string_view what_;
  at::Tensor raw_;  ///< the best so far
  std::int64_t seed_;
  std::int64_t round_steps_;
  std::vector<Search> searches_;
};

}  // namespace

Objective objective(Model& model, const Form& form, const at::Tensor& images, const at::Tensor& raw,
                    const at::Tensor& targets, const at::Tensor& costs) {
  const Applied applied = form.apply(images, raw);
  const std::int64_t n = images.size(0);
  const at::Tensor logits = model.forward(applied.images);
  const at::Tensor labels = targets.repeat_interleave(n);
  const at::Tensor errors =
      at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum).div(static_cast<double>(n));
  return {errors.add(applied.sizes.mul(costs).sum()),
          logits.detach().argmax(1).eq(labels).view({-1, n}).sum(1)};
}

Triggers find_triggers(Context& ctx, Model& model, const ImageSet& images, const Form& form,
                       const Settings& settings, std::string_view what) {
  const c10::AutoGradMode gradients(true);
  const std::int64_t at_once = settings.classes_at_once > 0
                                   ? settings.classes_at_once
                                   : classes_that_fit(model, images, settings.batch_size);
  Finder finder(ctx, model, images, form, settings, what);
  for (std::int64_t first = 0; first < model.classes(); first += at_once)
    finder.search(first, std::min(at_once, model.classes() - first));
  return finder.result();
}

Judgment judge(const Triggers& triggers, double threshold) {
  constexpr double kSmallestSize = 1e-6;
  constexpr double kSmallestDeviation = 0.25;  // an index of 3 needs less than half the median
  std::vector<double> logarithms;
  for (const double size : triggers.sizes)
    logarithms.push_back(std::log(std::max(size, kSmallestSize)));
  Judgment judgment;
  judgment.spread = spread_of(logarithms, kSmallestDeviation);
  std::vector<std::int64_t> certain;
  bool ended = true;
  for (std::size_t c = 0; c < logarithms.size(); ++c) {
    const double index = judgment.spread.index(logarithms[c]);
    judgment.indices.push_back(index);
    ended = ended && triggers.converged[c];
    if (!triggers.found[c]) continue;
    judgment.score = std::max(judgment.score, index);
    if (index < threshold) continue;
    judgment.suspects.push_back(static_cast<std::int64_t>(c));
    std::vector<double> lowest = logarithms;
    for (std::size_t other = 0; other < lowest.size(); ++other)
      if (!triggers.converged[other]) lowest[other] = std::min(lowest[other], logarithms[c]);
    if (spread_of(lowest, kSmallestDeviation).index(logarithms[c]) >= threshold)
      certain.push_back(static_cast<std::int64_t>(c));
  }
  judgment.conclusive = ended || !certain.empty();
  if (!certain.empty()) judgment.suspects = std::move(certain);
  return judgment;
}

std::string unfinished(const Triggers& triggers, const Settings& settings,
                       std::string_view plural) {
  const auto classes = static_cast<std::ptrdiff_t>(triggers.found.size());
  const auto missing = std::count(triggers.found.begin(), triggers.found.end(), false);
  std::ptrdiff_t moving = 0;
  for (std::size_t c = 0; c < triggers.found.size(); ++c)
    if (triggers.found[c] && !triggers.converged[c]) ++moving;
  const std::string of_all = " of " + std::to_string(classes) + " classes";
  const std::string after = " after " + std::to_string(settings.rounds) + " rounds of search";
  std::string reason;
  if (moving > 0)
    reason = "the " + std::string(plural) + " of " + std::to_string(moving) + of_all +
             (missing > 0 ? " were still shrinking, and " : " were still shrinking");
  if (missing > 0)
    reason += "no image change that works was found for " + std::to_string(missing) + of_all;
  return reason.empty() ? reason : reason + after;
}

void conclude(Context& ctx, ModelVerdict& verdict, const Judgment& judgment, double threshold,
              const std::string& reason) {
  verdict.score(judgment.score, threshold);
  if (!judgment.conclusive)
    verdict.inconclusive(reason);
  else if (!reason.empty())
    ctx.log(LogLevel::info, reason + ", which cannot change the verdict");
}

}  // namespace backstop::trigger_search
