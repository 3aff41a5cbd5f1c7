#include "host/engine/train/work_checkpoint.hpp"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/error.hpp"
#include "host/engine/model/torchscript.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/train/cost.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

// What the names of a checkpoint's tensors begin with.
constexpr std::string_view kModel = "model.", kOptimizer = "optimizer.", kOwn = "own.",
                           kState = "state.", kStage = "stage.";
constexpr std::string_view kOrder = "order", kLossSum = "loss_sum";

void add(NamedTensors& all, std::string_view prefix, const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) all.emplace_back(std::string(prefix) + name, tensor);
}

NamedTensors part_of(const NamedTensors& all, std::string_view prefix) {
  NamedTensors part;
  for (const auto& [name, tensor] : all)
    if (name.starts_with(prefix)) part.emplace_back(name.substr(prefix.size()), tensor);
  return part;
}

/// Of all of the set, or of as many of its images as can be read in a moment.
std::string digest_of_images(const ImageStore& images) {
  constexpr std::int64_t kMostBytes = 64 << 20;
  const std::int64_t bytes = images.channels() * images.height() * images.width();
  const std::int64_t count = std::clamp(kMostBytes / bytes, std::int64_t{1}, images.size());
  const at::Tensor positions =
      at::arange(count, at::kLong).mul_(images.size()).floor_divide_(count);
  return digest_of({{"pixels", images.pixels(positions)}, {"labels", images.labels()}}, "");
}

/// Everything that the training does follows from this and from its step.
std::string beginning_of(const FitState& fit, const at::Tensor& generator) {
  const TrainingOptions& o = fit.options;
  const OptimizerOptions& optimizer = o.optimizer;
  TrainingPosition at;
  at.epochs = std::max<std::int64_t>(o.epochs, 1);
  at.iterations_per_epoch = (fit.images.size() + o.batch_size - 1) / o.batch_size;
  std::vector<double> rates;
  for (; at.epoch() < at.epochs; at.iteration += at.iterations_per_epoch)
    rates.push_back(o.scheduler->rate(at));
  const std::string text =
      fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {} {}", fit.images.size(), o.epochs,
                  o.batch_size, static_cast<int>(o.trainable), static_cast<int>(o.batch_norm),
                  o.augment, static_cast<int>(optimizer.kind), optimizer.momentum,
                  optimizer.weight_decay, optimizer.nesterov, optimizer.beta1, optimizer.beta2,
                  optimizer.epsilon, digest_of_images(fit.images), fmt::join(rates, " "));
  NamedTensors tensors = fit.model.snapshot();
  tensors.emplace_back("generator", generator);
  return digest_of(tensors, text);
}

TrainingState* state_of(TrainingStep& step) {
  return static_cast<TrainingState*>(step.query(TrainingState::kId));
}

}  // namespace

// --- any work ---

WorkCheckpoint::WorkCheckpoint(StageContext& ctx) : ctx_(ctx), number_(ctx.begin_work()) {}

bool WorkCheckpoint::enabled() const {
  return ctx_.checkpoints() != nullptr;
}

bool WorkCheckpoint::due() const {
  return enabled() && ctx_.checkpoints()->due();
}

std::optional<Checkpoint> WorkCheckpoint::load(const char* restart) {
  std::string problem;
  auto kept = ctx_.checkpoints()->load(number_, problem);
  if (kept && kept->record["beginning"] != beginning_)
    problem = "what comes before it gave another result than it did before";
  else if (kept && !kept->record["resumable"].get<bool>())
    problem = kept->record["why"].get<std::string>();
  if (problem.empty()) return kept;
  ctx_.log(LogLevel::warning, fmt::format("resuming is not possible: {}; {}", problem, restart));
  return std::nullopt;
}

template <typename Load>
bool WorkCheckpoint::resume(std::string beginning, const char* restart, Load&& load) {
  beginning_ = std::move(beginning);
  const std::optional<Checkpoint> kept = this->load(restart);
  if (!kept) {
    ctx_.checkpoints()->remove_from(number_);
    return false;
  }
  try {
    load(*kept);
  } catch (...) {
    ctx_.checkpoints()->remove_from(number_);  // the next run would come to the same end
    throw;
  }
  ctx_.restore({kept->record["stage"], part_of(kept->tensors, kStage)});
  ctx_.log(LogLevel::info, "goes on " + kept->record["where"].get<std::string>());
  return true;
}

void WorkCheckpoint::save(const std::string& where, Checkpoint work) {
  Checkpoint stage = ctx_.records();
  work.record.update({{"beginning", beginning_},
                      {"resumable", true},
                      {"where", where},
                      {"stage", std::move(stage.record)}});
  add(work.tensors, kStage, stage.tensors);
  write(work);
}

void WorkCheckpoint::save_that_it_cannot_be_kept(const char* why) {
  write({{{"beginning", beginning_}, {"resumable", false}, {"where", ""}, {"why", why}}, {}});
}

void WorkCheckpoint::write(const Checkpoint& kept) try {
  ctx_.checkpoints()->save(number_, kept);
  ctx_.tell_kept(kept.record["resumable"], kept.record["where"]);
} catch (const base::HostError& e) {         // the work matters more than its checkpoints
  if (std::exchange(failed_, true)) return;  // and the user was told
  ctx_.log(LogLevel::warning,
           fmt::format("{}; if this run is killed, the work since the last checkpoint is repeated",
                       e.what()));
}

// --- a training ---

void FitCheckpoint::resume() {
  if (!enabled() || fit_.options.epochs == 0) return;
  const CostMeter::Pause pause(ctx_.cost());
  const auto load = [this](const Checkpoint& kept) {
    const json& record = kept.record;
    FitPosition& position = fit_.position;
    fit_.model.restore(part_of(kept.tensors, kModel));
    fit_.optimizer.load_state(part_of(kept.tensors, kOptimizer));
    const NamedTensors own = part_of(kept.tensors, kOwn);
    if (own.size() != fit_.own.size()) throw Error("the training step has other parameters");
    if (fit_.options.step != nullptr)
      state_of(*fit_.options.step)->load(TensorState(part_of(kept.tensors, kState)));
    const at::NoGradGuard no_gradients;
    for (std::size_t i = 0; i < own.size(); ++i) at::Tensor(fit_.own[i]).copy_(own[i].second);
    position.epoch = record["epoch"];
    position.images = record["images"];
    position.ended = record["ended"];
    for (const auto& [name, tensor] : kept.tensors) {
      if (name == kOrder) position.order = tensor;
      if (name == kLossSum) position.loss_sum.copy_(tensor);
    }
  };
  WorkCheckpoint::resume(beginning_of(fit_, ctx_.generator().get_state()),
                         "this training starts again at epoch 1", load);
}

void FitCheckpoint::save() {
  if (!enabled() || fit_.options.epochs == 0) return;
  const CostMeter::Pause pause(ctx_.cost());
  const FitPosition& position = fit_.position;
  TrainingState* const state =
      fit_.options.step == nullptr ? nullptr : state_of(*fit_.options.step);
  if (fit_.options.step != nullptr && state == nullptr) {
    save_that_it_cannot_be_kept("the training step does not offer backstop.training-state/1");
    return;
  }
  if (const auto& script = fit_.model.architecture().script; script && has_other_state(*script)) {
    save_that_it_cannot_be_kept(
        "the TorchScript network draws random numbers or changes its attributes");
    return;
  }
  Checkpoint kept;
  kept.record = {{"epoch", position.epoch}, {"images", position.images}, {"ended", position.ended}};
  add(kept.tensors, kModel, fit_.model.snapshot());
  if (!position.ended) add(kept.tensors, kOptimizer, fit_.optimizer.state());
  for (std::size_t i = 0; i < fit_.own.size(); ++i)
    kept.tensors.emplace_back(fmt::format("{}{}", kOwn, i), fit_.own[i]);
  if (position.order.defined()) kept.tensors.emplace_back(kOrder, position.order);
  kept.tensors.emplace_back(kLossSum, position.loss_sum);
  if (state != nullptr) {
    TensorState written;
    state->save(written);
    add(kept.tensors, kState, written.tensors());
  }
  const std::int64_t all = fit_.options.epochs;
  WorkCheckpoint::save(
      position.images == 0
          ? fmt::format("after epoch {} of {}", position.epoch, all)
          : fmt::format("in epoch {} of {}, after {} of {} images", position.epoch + 1, all,
                        position.images, fit_.images.size()),
      std::move(kept));
}

// --- a loop of a plugin's own ---

std::int64_t LoopCheckpoint::resume() {
  if (!enabled()) return 0;
  const CostMeter::Pause pause(ctx_.cost());
  TensorState before;
  state_.save(before);
  NamedTensors beginning = before.tensors();
  beginning.emplace_back("generator", ctx_.generator().get_state());
  std::int64_t done = 0;
  const auto load = [&](const Checkpoint& kept) {
    state_.load(TensorState(part_of(kept.tensors, kState)));
    done = kept.record["steps"];
  };
  WorkCheckpoint::resume(digest_of(beginning, ""), "it starts again", load);
  return done;
}

void LoopCheckpoint::advance(std::int64_t done, bool over) {
  if (!enabled() || !(over || due())) return;
  const CostMeter::Pause pause(ctx_.cost());
  TensorState written;
  state_.save(written);
  Checkpoint kept;
  kept.record = {{"steps", done}};
  add(kept.tensors, kState, written.tensors());
  WorkCheckpoint::save(fmt::format("after step {}", done), std::move(kept));
}

}  // namespace backstop::engine
