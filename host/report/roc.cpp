#include "host/report/roc.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>

namespace backstop::report {
namespace {

nlohmann::json number_or_null(std::optional<double> value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

}  // namespace

std::vector<RocPoint> roc_curve(const std::vector<double>& negatives,
                                const std::vector<double>& positives) {
  if (negatives.empty() || positives.empty()) return {};
  std::vector<std::pair<double, bool>> scores;
  scores.reserve(negatives.size() + positives.size());
  for (const double score : negatives) scores.emplace_back(score, false);
  for (const double score : positives) scores.emplace_back(score, true);
  std::sort(scores.begin(), scores.end(), std::greater<>());
  std::vector<RocPoint> curve(1);
  std::size_t false_positives = 0, true_positives = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    ++(scores[i].second ? true_positives : false_positives);
    if (i + 1 < scores.size() && scores[i + 1].first == scores[i].first) continue;
    curve.push_back({static_cast<double>(false_positives) / static_cast<double>(negatives.size()),
                     static_cast<double>(true_positives) / static_cast<double>(positives.size())});
  }
  return curve;
}

std::optional<double> auroc_of(const std::vector<RocPoint>& curve) {
  if (curve.empty()) return std::nullopt;
  double area = 0;
  for (std::size_t i = 1; i < curve.size(); ++i)
    area += (curve[i].false_positive_rate - curve[i - 1].false_positive_rate) *
            (curve[i].true_positive_rate + curve[i - 1].true_positive_rate) / 2;
  return area;
}

std::optional<double> true_positive_rate_at(const std::vector<RocPoint>& curve, double most) {
  std::optional<double> rate;
  for (const RocPoint& point : curve)
    if (point.false_positive_rate <= most) rate = point.true_positive_rate;
  return rate;
}

nlohmann::json separation(const std::vector<RocPoint>& curve) {
  return {{"auroc", number_or_null(auroc_of(curve))},
          {"tpr_at_1_fpr", number_or_null(true_positive_rate_at(curve, 0.01))},
          {"tpr_at_5_fpr", number_or_null(true_positive_rate_at(curve, 0.05))}};
}

}  // namespace backstop::report
