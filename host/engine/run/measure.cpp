#include "host/engine/run/measure.hpp"

#include <ATen/ATen.h>

#include "backstop/attack.hpp"

namespace backstop::engine {

namespace {

std::int64_t count(const at::Tensor& mask) {
  return mask.sum().item<std::int64_t>();
}

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

nlohmann::json measure(HostTrainer& trainer, Classifier& model, const ImageStore& clean,
                       const TriggeredSet& triggered) {
  const at::Tensor labels = triggered.images.labels();
  const at::Tensor predicted = trainer.logits(model, triggered.images).argmax(1);
  const at::Tensor robust = predicted.eq(labels);
  const std::int64_t n = triggered.images.size();
  if (!triggered.targets.defined()) {
    const at::Tensor of_clean = trainer.logits(model, clean).argmax(1);
    const auto favourite = predicted.bincount().argmax().item<std::int64_t>();
    const double rate = share(count(predicted.eq(favourite)), n);
    return {{"metrics",
             {{"clean_accuracy", share(count(of_clean.eq(clean.labels())), clean.size())},
              {"attack_success_rate", rate},
              {"attack_success_rate_all", rate},
              {"robust_accuracy", share(count(robust), n)},
              {"attack_class", favourite},
              {"attack_class_clean_share", share(count(of_clean.eq(favourite)), clean.size())}}},
            {"counts", {{"clean", clean.size()}, {"triggered", n}, {"triggered_all", n}}}};
  }
  const at::Tensor hit = predicted.eq(triggered.targets);
  const at::Tensor counted = labels.ne(triggered.targets);
  const std::int64_t n_counted = count(counted);
  return {{"metrics",
           {{"clean_accuracy", trainer.accuracy(model, clean)},
            {"attack_success_rate", share(count(hit & counted), n_counted)},
            {"attack_success_rate_all", share(count(hit), n)},
            {"robust_accuracy", share(count(robust & counted), n_counted)}}},
          {"counts", {{"clean", clean.size()}, {"triggered", n_counted}, {"triggered_all", n}}}};
}

nlohmann::json detection(const at::Tensor& flagged, const NamedTensors& poison_record,
                         std::int64_t all) {
  const at::Tensor inside = flagged.index({flagged.ge(0) & flagged.lt(all)});
  at::Tensor is_flagged = at::zeros({all}, at::kBool);
  is_flagged.index_fill_(0, inside, 1);
  at::Tensor is_poison = at::zeros({all}, at::kBool);
  const at::Tensor& roles = tensor_named(poison_record, "roles");
  is_poison.index_fill_(0,
                        tensor_named(poison_record, "positions")
                            .index({roles.eq(static_cast<std::int64_t>(Role::poison))}),
                        1);
  const std::int64_t poison = count(is_poison);
  return {{"true_positive_rate", share(count(is_flagged & is_poison), poison)},
          {"false_positive_rate", share(count(is_flagged & is_poison.logical_not()), all - poison)},
          {"flagged", count(is_flagged)}};
}

}  // namespace backstop::engine
