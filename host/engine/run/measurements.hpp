// Measuring a stage's model: before its training, after its epochs, and in the end.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

class Measurements {
 public:
  /// Of models that are measured on `clean` and on the images that `triggered` gives, or null
  /// where nobody knows the trigger. `clean` is null for an encoder before it is adapted, which has
  /// no classes and is not measured.
  Measurements(StageContext& ctx, const ImageStore* clean,
               std::function<const TriggeredSet*()> triggered)
      : ctx_(ctx), clean_(clean), triggered_(std::move(triggered)) {}

  /// The event of epoch 0 of `epochs`. `metrics`: null: they are measured.
  void before_training(Classifier& model, std::int64_t epochs, const nlohmann::json& metrics);
  /// Lets the trainer measure `model` after each `every` epochs (0: never) and in the last one.
  /// `before` is called before each measurement.
  void follow(const Classifier& model, std::int64_t every, std::function<void()> before = {});
  /// {"metrics": {...}, "counts": {...}} of the model as it is in the end; what the last epoch gave
  /// where nothing has changed since.
  [[nodiscard]] nlohmann::json after_training(Classifier& model);

 private:
  [[nodiscard]] nlohmann::json measure_now(Classifier& model);

  StageContext& ctx_;
  const ImageStore* clean_;
  std::function<const TriggeredSet*()> triggered_;
  std::vector<at::Tensor> weights_;  ///< at the last measurement
  nlohmann::json last_;              ///< and what it gave
};

}  // namespace backstop::engine
