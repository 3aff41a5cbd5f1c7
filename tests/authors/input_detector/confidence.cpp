// Takes an image for triggered if the model is more confident of it than of 99 % of clean images.
#include <string_view>
#include <tuple>

#include <ATen/core/Tensor.h>

#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/plugin.hpp"

namespace {

class Confidence final : public backstop::Defense, public backstop::InputDetector {
 public:
  explicit Confidence(const backstop::Params&) {}

  void run(backstop::Context&, backstop::Model&, const backstop::DefenderData&) override {
    throw backstop::Error("confidence only detects", "name it in [[detector]]");
  }
  void* query(std::string_view id) noexcept override {
    return id == InputDetector::kId ? static_cast<InputDetector*>(this) : nullptr;
  }

  double prepare(backstop::Context& ctx, backstop::Model& model,
                 const backstop::DefenderData& data) override {
    return of(ctx.trainer().logits(model, data.clean())).quantile(0.99).item<double>();
  }
  at::Tensor scores(backstop::Context&, backstop::Model& model, const at::Tensor& images) override {
    return of(model.forward(images));
  }

 private:
  static at::Tensor of(const at::Tensor& logits) { return std::get<0>(logits.softmax(1).max(1)); }
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Confidence)
