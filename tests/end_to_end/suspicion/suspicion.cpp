// A detector whose verdict is in its parameters.
#include <string>

#include <ATen/ATen.h>

#include "backstop/model_detector.hpp"
#include "backstop/plugin.hpp"

namespace {

class Suspicion final : public backstop::Defense, public backstop::ModelDetector {
 public:
  explicit Suspicion(const backstop::Params& params)
      : score_(params.number("score")),
        suspect_(params.integer("suspect")),
        reason_(params.string("reason")),
        damage_(params.boolean("damage")) {}

  void run(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    throw backstop::Error("this plugin only detects");
  }
  void* query(std::string_view id) noexcept override {
    return id == ModelDetector::kId ? static_cast<ModelDetector*>(this) : nullptr;
  }
  void detect(backstop::Context&, backstop::Model& model, const backstop::DefenderData& data,
              backstop::ModelVerdict& verdict) override {
    if (damage_) {
      const at::NoGradGuard no_gradient;
      at::Tensor(model.layers().front().weight).zero_();
    }
    if (!reason_.empty()) return verdict.inconclusive(reason_);
    verdict.score(score_, 2);
    for (std::int64_t label = 0; label < model.classes(); ++label)
      verdict.class_number(
          label, "images",
          static_cast<double>(data.clean().labels().eq(label).sum().item<std::int64_t>()));
    if (suspect_ >= 0) verdict.suspect(suspect_, "is suspected by a parameter");
  }

 private:
  double score_;
  std::int64_t suspect_;
  std::string reason_;
  bool damage_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Suspicion)
