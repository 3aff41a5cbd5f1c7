#include "host/engine/measure.hpp"

#include <ATen/ATen.h>

namespace backstop::host {

nlohmann::json measure(HostTrainer& trainer, Classifier& model, const ImageStore& clean,
                       const TriggeredSet& triggered) {
  const at::Tensor labels = triggered.images.labels();
  const at::Tensor predicted = trainer.logits(model, triggered.images).argmax(1);
  const at::Tensor hit = predicted.eq(triggered.targets);
  const at::Tensor counted = labels.ne(triggered.targets);
  const at::Tensor robust = predicted.eq(labels);
  const auto count = [](const at::Tensor& mask) { return mask.sum().item<std::int64_t>(); };
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  };
  const std::int64_t n = triggered.images.size(), n_counted = count(counted);
  return {{"metrics",
           {{"clean_accuracy", trainer.accuracy(model, clean)},
            {"attack_success_rate", share(count(hit & counted), n_counted)},
            {"attack_success_rate_all", share(count(hit), n)},
            {"robust_accuracy", share(count(robust & counted), n_counted)}}},
          {"counts", {{"clean", clean.size()}, {"triggered", n_counted}, {"triggered_all", n}}}};
}

}  // namespace backstop::host
