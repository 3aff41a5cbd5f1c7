#include "host/engine/run/measurements.hpp"

#include <algorithm>
#include <utility>

namespace backstop::engine {

using nlohmann::json;

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
  ctx_.trainer().measure(
      model, [this, every, before = std::move(before)](Classifier& trained, std::int64_t epoch,
                                                       std::int64_t of, double loss) {
        if (epoch % every != 0 && epoch != of) return;
        const CostMeter::Evaluation pause(ctx_.cost());
        if (before) before();
        last_ = measure_now(trained);
        weights_.clear();
        for (const auto& item : trained.state()) weights_.push_back(item.second);
        json event = {{"epoch", epoch}, {"epochs", of}, {"loss", loss}};
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
