#include "host/engine/run/measure.hpp"

#include <ATen/ATen.h>

#include "backstop/attack.hpp"
#include "host/report/roc.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

std::int64_t count(const at::Tensor& mask) {
  return mask.sum().item<std::int64_t>();
}

/// Null where there is nothing to have a share of.
json share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? json(nullptr) : json(static_cast<double>(part) / static_cast<double>(whole));
}

std::int64_t not_finite(const at::Tensor& logits) {
  return count(at::isfinite(logits).all(1).logical_not());
}

/// The class that is predicted most often. On the CPU: a GPU's bincount may be nondeterministic.
std::int64_t favorite(const at::Tensor& predicted, std::int64_t classes) {
  return predicted.to(at::kCPU).bincount({}, classes).argmax().item<std::int64_t>();
}

json success_at_targets(const at::Tensor& predicted, const at::Tensor& of_clean,
                        const at::Tensor& labels, const at::Tensor& targets) {
  const at::Tensor counted = labels.ne(targets);
  const std::int64_t n = labels.size(0), n_counted = count(counted);
  const at::Tensor hit = predicted.eq(targets);
  return {{"metrics",
           {{"attack_success_rate", share(count(hit & counted), n_counted)},
            {"attack_success_rate_all", share(count(hit), n)},
            {"robust_accuracy", share(count(predicted.eq(labels) & counted), n_counted)},
            {"clean_target_rate", share(count(of_clean.eq(targets) & counted), n_counted)}}},
          {"counts", {{"triggered", n_counted}, {"triggered_all", n}}}};
}

json success_at_any_class(const at::Tensor& predicted, const at::Tensor& of_clean,
                          const at::Tensor& labels, std::int64_t classes) {
  const std::int64_t n = labels.size(0), attack_class = favorite(predicted, classes);
  const json rate = share(count(predicted.eq(attack_class)), n);
  return {
      {"metrics",
       {{"attack_success_rate", rate},
        {"attack_success_rate_all", rate},
        {"robust_accuracy", share(count(predicted.eq(labels)), n)},
        {"attack_class", attack_class},
        {"attack_class_clean_share", share(count(of_clean.eq(attack_class)), of_clean.size(0))}}},
      {"counts", {{"triggered", n}, {"triggered_all", n}}}};
}

/// What argmax makes of numbers that are not finite is nobody's prediction.
void set_to_null(json& metrics) {
  metrics.erase("attack_class");
  for (json& value : metrics) value = nullptr;
}

}  // namespace

json measure(HostTrainer& trainer, Classifier& model, const ImageStore& clean,
             const TriggeredSet* triggered) {
  const at::Tensor clean_logits = trainer.logits(model, clean);
  const at::Tensor of_clean = clean_logits.argmax(1);
  std::int64_t broken = not_finite(clean_logits);
  json result = {{"metrics", json::object()}, {"counts", json::object()}};
  if (triggered != nullptr) {
    const at::Tensor logits = trainer.logits(model, triggered->images);
    const at::Tensor predicted = logits.argmax(1), labels = triggered->images.labels();
    result = triggered->targets.defined()
                 ? success_at_targets(predicted, of_clean, labels, triggered->targets)
                 : success_at_any_class(predicted, of_clean, labels, model.classes());
    broken += not_finite(logits);
  }
  const std::int64_t largest = favorite(of_clean, model.classes());
  json &metrics = result["metrics"], &counts = result["counts"];
  metrics["clean_accuracy"] = share(count(of_clean.eq(clean.labels())), clean.size());
  metrics["largest_predicted_class_share"] = share(count(of_clean.eq(largest)), clean.size());
  counts["clean"] = clean.size();
  counts["largest_predicted_class"] = count(clean.labels().eq(largest));
  counts["not_finite"] = broken;
  if (counts["not_finite"] > 0) set_to_null(metrics);
  return result;
}

void mark_weights(json& measured, std::int64_t numbers) {
  if (numbers == 0) return;
  measured["counts"]["not_finite_weights"] = numbers;
  set_to_null(measured["metrics"]);
}

namespace {

/// bool [all]: the images with Role::poison.
at::Tensor poison_among(const NamedTensors& poison_record, std::int64_t all) {
  const at::Tensor& roles = tensor_named(poison_record, "roles");
  return at::zeros({all}, at::kBool)
      .index_fill_(0,
                   tensor_named(poison_record, "positions")
                       .index({roles.eq(static_cast<std::int64_t>(Role::poison))}),
                   1);
}

}  // namespace

at::Tensor positions_in(const ImageStore& set, const at::Tensor& indices) {
  const at::Tensor own = set.indices();
  const std::int64_t most = own.numel() == 0 ? 0 : own.max().item<std::int64_t>() + 1;
  const at::Tensor known = indices.ge(0) & indices.lt(most);
  at::Tensor position_of = at::full({std::max<std::int64_t>(most, 1)}, -1, at::kLong);
  const at::Tensor places = at::arange(own.numel(), at::kLong);
  position_of.index_put_({own.index({own.ge(0)})}, places.index({own.ge(0)}));
  return at::where(known, position_of.index_select(0, indices.mul(known)),
                   at::full({1}, -1, at::kLong));
}

json detection(const at::Tensor& flagged, const NamedTensors& poison_record, std::int64_t all) {
  const at::Tensor inside = flagged.index({flagged.ge(0) & flagged.lt(all)});
  at::Tensor is_flagged = at::zeros({all}, at::kBool);
  is_flagged.index_fill_(0, inside, 1);
  const at::Tensor is_poison = poison_among(poison_record, all);
  const std::int64_t poison = count(is_poison);
  return {{"true_positive_rate", share(count(is_flagged & is_poison), poison)},
          {"false_positive_rate", share(count(is_flagged & is_poison.logical_not()), all - poison)},
          {"flagged", count(is_flagged)}};
}

json detection_by_score(const at::Tensor& positions, const at::Tensor& scores,
                        const NamedTensors& poison_record, std::int64_t all) {
  if (!(positions.ge(0) & positions.lt(all)).all().item<bool>())
    throw Error("score_poison got an index that is not in the training set",
                "give entries of ImageSet::indices");
  if (positions.bincount({}, all).gt(1).any().item<bool>())
    throw Error("score_poison got an index twice");
  const at::Tensor is_poison = poison_among(poison_record, all).index_select(0, positions);
  const auto numbers = [&](const at::Tensor& chosen) {
    const at::Tensor values = scores.index({chosen}).contiguous();
    return std::vector<double>(values.data_ptr<double>(),
                               values.data_ptr<double>() + values.numel());
  };
  return report::separation(
      report::roc_curve(numbers(is_poison.logical_not()), numbers(is_poison)));
}

}  // namespace backstop::engine
