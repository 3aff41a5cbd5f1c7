// Detectors that judge a whole model. A defense offers this through Defense::query, and says so in
// its manifest with `detects = ["model"]`.
#pragma once

#include <cstdint>
#include <string_view>

#include "backstop/abi.h"
#include "backstop/context.hpp"
#include "backstop/defense.hpp"

namespace backstop {
inline namespace v1 {

/// Receives what a detector found. Implemented by the host; valid during ModelDetector::detect.
/// [run thread]
class ModelVerdict {
 public:
  /// The detector's score of the model, higher for a model that is more likely backdoored, and the
  /// score from which the detector calls it suspicious. Call it once. [run thread]
  virtual void score(double value, double threshold) = 0;
  /// A number about one class ("mask_norm", "anomaly_index"): a column of the table by class.
  /// [run thread]
  virtual void class_number(std::int64_t label, std::string_view column, double value) = 0;
  /// The class is suspected to be a backdoor's target. `evidence` completes the sentence "class 3
  /// (cat) ...": "is reached by a patch of 2.0 % of the pixels". Pictures of the trigger go to
  /// Context::picture. [run thread]
  virtual void suspect(std::int64_t label, std::string_view evidence) = 0;
  /// The search did not come to an end, so there is no verdict. `reason` completes the sentence
  /// "no verdict: ...": "the masks of 4 of 10 classes were still shrinking after 80 epochs".
  /// [run thread]
  virtual void inconclusive(std::string_view reason) = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~ModelVerdict() = default;
};

/// Implemented by plugins, beside Defense. [run thread]
class ModelDetector {
 public:
  static constexpr std::string_view kId = "backstop.model-detector/1";

  /// Judges `model`, which it leaves as it was. `data` is what the plugin's `needs` asks for, and
  /// none of it comes from the test set. [run thread]
  virtual void detect(Context& ctx, Model& model, const DefenderData& data,
                      ModelVerdict& verdict) = 0;

 protected:
  ModelDetector() = default;
  ModelDetector(const ModelDetector&) = default;
  ModelDetector& operator=(const ModelDetector&) = default;
  ~ModelDetector() = default;
};

}  // namespace v1
}  // namespace backstop
