// A detector that scores images by their mean, or makes the mistake that it is told to make.
#include <cmath>
#include <string>

#include <ATen/ATen.h>

#include "backstop/input_detector.hpp"
#include "backstop/plugin.hpp"

namespace {

class Scorer final : public backstop::Defense, public backstop::InputDetector {
 public:
  explicit Scorer(const backstop::Params& params) : mistake_(params.string("mistake")) {}

  void run(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    throw backstop::Error("this plugin only detects");
  }
  void* query(std::string_view id) noexcept override {
    return id == InputDetector::kId ? static_cast<InputDetector*>(this) : nullptr;
  }
  double prepare(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    return mistake_ == "threshold" ? NAN : 0.5;
  }
  at::Tensor scores(backstop::Context&, backstop::Model& model, const at::Tensor& images) override {
    if (mistake_ == "undefined") return {};
    if (mistake_ == "matrix") return model.forward(images);
    if (mistake_ == "damage") model.layers().back().weight.detach().zero_();
    const at::Tensor means = images.mean({1, 2, 3});
    if (mistake_ == "nan") return means.mul(NAN);
    return mistake_ == "batch" ? means.sub(means.mean()).mul(means.size(0)) : means;
  }

 private:
  std::string mistake_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Scorer)
