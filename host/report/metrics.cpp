#include "host/report/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/report/fields.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

/// Of a defense that scores training images.
Metric of_poison_scores(std::string_view key, std::string_view title, bool in_summary) {
  return {.section = "detection",
          .key = key,
          .title = title,
          .csv = key,
          .range = Range::share,
          .better = Better::higher,
          .format = Format::share,
          .in_summary = in_summary,
          .in_expect = true,
          .not_in = {"transfer", "encoder"},
          .why_not = "nobody who adapts a model has the poisoned training set"};
}

std::vector<Metric> make_metrics() {
  return {
      {.section = "given", .key = "clean_images", .csv = "clean_images"},
      {.section = "given", .key = "training_images", .csv = "training_images"},
      {.section = "metrics",
       .key = "clean_accuracy",
       .title = "clean accuracy",
       .csv = "clean_accuracy",
       .range = Range::share,
       .better = Better::higher,
       .format = Format::share,
       .in_table = true,
       .by_epoch = true,
       .in_summary = true,
       .in_expect = true,
       .definition = "clean test images classified correctly",
       .images = "clean"},
      {.section = "metrics",
       .key = "attack_success_rate",
       .title = "attack success",
       .csv = "attack_success_rate",
       .range = Range::share,
       .better = Better::lower,
       .format = Format::share,
       .in_table = true,
       .by_epoch = true,
       .in_summary = true,
       .in_expect = true,
       .of_backdoor = true,
       .definition = "triggered test images classified as their target, excluding images of the "
                     "target class",
       .images = "triggered"},
      {.section = "metrics",
       .key = "attack_success_rate_all",
       .title = "attack success (all)",
       .csv = "attack_success_rate_all",
       .range = Range::share,
       .better = Better::lower,
       .format = Format::share,
       .in_table = true,
       .in_expect = true,
       .of_backdoor = true,
       .definition = "the same, including images of the target class",
       .images = "triggered_all"},
      {.section = "metrics",
       .key = "robust_accuracy",
       .title = "robust accuracy",
       .csv = "robust_accuracy",
       .range = Range::share,
       .better = Better::higher,
       .format = Format::share,
       .in_table = true,
       .in_expect = true,
       .of_backdoor = true,
       .definition = "triggered test images still classified as their true label, excluding images "
                     "of the target class",
       .images = "triggered"},
      {.section = "metrics",
       .key = "clean_accuracy_drop",
       .title = "clean accuracy drop",
       .csv = "clean_accuracy_drop",
       .range = Range::difference,
       .better = Better::lower,
       .format = Format::share,
       .in_expect = true,
       .not_in = {"transfer", "encoder"},
       .why_not = "\"no defense\" is not measured on the same dataset"},
      {.section = "metrics",
       .key = "attack_class_clean_share",
       .title = "clean images in the attack's class",
       .range = Range::share,
       .better = Better::lower,
       .format = Format::share,
       .in_expect = true,
       .of_backdoor = true,
       .not_in = {"standalone", "encoder"},
       .why_not = "the attacker's target is a class of the dataset"},
      {.section = "counts", .key = "clean", .csv = "clean_test_images"},
      {.section = "counts", .key = "triggered", .csv = "triggered_test_images"},
      {.section = "counts", .key = "triggered_all", .csv = "triggered_test_images_all"},
      {.section = "trigger", .key = "psnr", .csv = "trigger_psnr", .better = Better::higher},
      {.section = "trigger",
       .key = "ssim",
       .csv = "trigger_ssim",
       .range = Range::difference,
       .better = Better::higher},
      {.section = "detection",
       .key = "true_positive_rate",
       .title = "true positive rate",
       .csv = "true_positive_rate",
       .range = Range::share,
       .better = Better::higher,
       .format = Format::share,
       .in_summary = true,
       .in_expect = true,
       .not_in = {"transfer", "encoder"},
       .why_not = "nobody who adapts a model has the poisoned training set"},
      {.section = "detection",
       .key = "false_positive_rate",
       .title = "false positive rate",
       .csv = "false_positive_rate",
       .range = Range::share,
       .better = Better::lower,
       .format = Format::share,
       .in_summary = true,
       .in_expect = true,
       .not_in = {"transfer", "encoder"},
       .why_not = "nobody who adapts a model has the poisoned training set"},
      {.section = "detection", .key = "flagged", .csv = "flagged"},
      of_poison_scores("auroc", "AUROC of scores", true),
      of_poison_scores("tpr_at_1_fpr", "TPR of scores at 1 % FPR", false),
      of_poison_scores("tpr_at_5_fpr", "TPR of scores at 5 % FPR", false),
      {.section = "cost",
       .key = "wall_seconds",
       .title = "wall time",
       .csv = "wall_seconds",
       .better = Better::lower,
       .format = Format::duration,
       .in_table = true},
      {.section = "cost",
       .key = "cpu_seconds",
       .title = "CPU time",
       .csv = "cpu_seconds",
       .better = Better::lower,
       .format = Format::duration,
       .in_table = true},
      {.section = "cost",
       .key = "gpu_seconds",
       .title = "GPU time",
       .csv = "gpu_seconds",
       .better = Better::lower,
       .format = Format::duration,
       .in_table = true},
      {.section = "cost", .key = "evaluation_seconds", .csv = "evaluation_seconds"},
      {.section = "cost",
       .key = "samples_seen",
       .title = "samples seen",
       .csv = "samples_seen",
       .better = Better::lower,
       .in_table = true},
      {.section = "cost",
       .key = "peak_memory_bytes",
       .title = "peak memory",
       .csv = "peak_memory_bytes",
       .better = Better::lower,
       .format = Format::memory,
       .in_table = true},
  };
}

}  // namespace

const std::vector<Metric>& metrics() {
  static const std::vector<Metric> kMetrics = make_metrics();
  return kMetrics;
}

std::vector<const Metric*> metrics_with(bool Metric::*property) {
  std::vector<const Metric*> chosen;
  for (const Metric& metric : metrics())
    if (metric.*property) chosen.push_back(&metric);
  return chosen;
}

std::vector<const Metric*> expectable_metrics(std::string_view scenario) {
  std::vector<const Metric*> chosen = metrics_with(&Metric::in_expect);
  std::erase_if(chosen, [&](const Metric* metric) {
    return std::find(metric->not_in.begin(), metric->not_in.end(), scenario) !=
           metric->not_in.end();
  });
  return chosen;
}

const Metric* find_metric(std::string_view key) {
  const auto found = std::find_if(metrics().begin(), metrics().end(), [&](const Metric& metric) {
    return (metric.section == "metrics" || metric.in_expect) && metric.key == key;
  });
  return found == metrics().end() ? nullptr : &*found;
}

const std::vector<Metric>& input_metrics() {
  static const std::vector<Metric> kMetrics = [] {
    const auto share = [](std::string_view key, std::string_view title, Better better) {
      return Metric{.section = "inputs",
                    .key = key,
                    .title = title,
                    .csv = key,
                    .range = Range::share,
                    .better = better,
                    .format = Format::share,
                    .in_summary = true,
                    .in_expect = true};
    };
    return std::vector<Metric>{
        share("auroc", "AUROC", Better::higher),
        share("tpr_at_1_fpr", "TPR at 1 % FPR", Better::higher),
        share("tpr_at_5_fpr", "TPR at 5 % FPR", Better::higher),
        share("true_positive_rate", "TPR", Better::higher),
        share("false_positive_rate", "FPR", Better::lower),
        share("auroc_successful", "AUROC (successful)", Better::higher),
    };
  }();
  return kMetrics;
}

bool is_own_metric(std::string_view key) {
  constexpr std::string_view kOthers[] = {"clean_target_rate", "largest_predicted_class_share",
                                          "attack_class", "score", "threshold"};
  const auto named = [key](const Metric& metric) { return metric.key == key || metric.csv == key; };
  return std::any_of(metrics().begin(), metrics().end(), named) ||
         std::any_of(input_metrics().begin(), input_metrics().end(), named) ||
         std::find(std::begin(kOthers), std::end(kOthers), key) != std::end(kOthers);
}

std::optional<double> value_of(const nlohmann::json& row, const Metric& metric) {
  return number_in(section_of(row, metric.section), metric.key);
}

std::string text_of(const Metric& metric, std::optional<double> value) {
  if (!value) return "-";
  switch (metric.format) {
    case Format::share:
      return base::fixed(*value, 3);
    case Format::count:
      return base::grouped(std::llround(*value));
    case Format::duration:
      return base::duration(*value);
    case Format::memory:
      return base::grouped(std::llround(*value / 1e6)) + " MB";
  }
  return {};
}

nlohmann::json points_by_epoch(const nlohmann::json& events) {
  auto points = nlohmann::json::array();
  for (const auto& event : events) {
    nlohmann::json point = {{"epoch", event.at("epoch")}};
    for (const Metric* metric : metrics_with(&Metric::by_epoch))
      if (const auto value = event.find(metric->key); value != event.end())
        point[std::string(metric->key)] = *value;
    if (point.size() > 1) points.push_back(std::move(point));
  }
  return points;
}

nlohmann::json clean_accuracy_drop(const nlohmann::json& undefended, const nlohmann::json& row) {
  const auto before = number_in(section_of(undefended, "metrics"), "clean_accuracy");
  const auto after = number_in(section_of(row, "metrics"), "clean_accuracy");
  return before && after && !is_void(undefended) ? nlohmann::json(*before - *after)
                                                 : nlohmann::json(nullptr);
}

}  // namespace backstop::report
