#include "host/engine/run/measurements.hpp"

#include <algorithm>
#include <utility>

namespace backstop::engine {

using nlohmann::json;

namespace {

/// {epoch: [...], rate: [...]} since the last event of one in each `every` epochs.
json rates_until(const HostTrainer::EpochEnd& end, std::int64_t every) {
  constexpr int kRates = 16;  // of an epoch, so that several rises and falls in it are seen
  json epochs = json::array(), rates = json::array();
  const std::int64_t first = std::max(end.begin, (end.epoch - 1) / every * every);
  for (std::int64_t i = first * kRates; i < end.epoch * kRates; ++i) {
    epochs.push_back(static_cast<double>(i) / kRates);
    rates.push_back(end.rate(epochs.back()));
  }
  return {{"epoch", std::move(epochs)}, {"rate", std::move(rates)}};
}

}  // namespace

json Measurements::measure_now(Classifier& model) {
  json result = clean_ == nullptr ? json{{"metrics", json::object()}, {"counts", json::object()}}
                                  : measure(ctx_.trainer(), model, *clean_, triggered_());
  mark_weights(result, model.not_finite());
  return result;
}

void Measurements::before_training(Classifier& model, std::int64_t epochs, const json& metrics) {
  const CostMeter::Evaluation pause(ctx_.cost());
  json event = {{"epoch", 0}, {"epochs", epochs}};
  event.update(metrics.is_null() ? measure_now(model)["metrics"] : metrics);
  ctx_.epoch(std::move(event));
}

void Measurements::follow(const Classifier& model, std::int64_t every,
                          std::function<void()> before) {
  if (every == 0) return;
  ctx_.trainer().measure(model, [this, every, before = std::move(before)](
                                    Classifier& trained, const HostTrainer::EpochEnd& end) {
    if (end.epoch % every != 0 && end.epoch != end.end) return;
    const CostMeter::Evaluation pause(ctx_.cost());
    if (before) before();
    last_ = measure_now(trained);
    weights_.clear();
    for (const auto& item : trained.state()) weights_.push_back(item.second);
    json event = {{"epoch", end.epoch}, {"epochs", end.end}, {"loss", end.loss}};
    event["learning_rate"] = rates_until(end, every);
    event.update(last_["metrics"]);
    ctx_.epoch(std::move(event));
  });
}

json Measurements::after_training(Classifier& model) {
  const CostMeter::Evaluation pause(ctx_.cost());
  const auto state = model.state();
  const bool unchanged =
      state.size() == weights_.size() &&
      std::equal(state.begin(), state.end(), weights_.begin(),
                 [](const auto& now, const at::Tensor& then) { return now.second.equal(then); });
  return unchanged ? last_ : measure_now(model);
}

}  // namespace backstop::engine
