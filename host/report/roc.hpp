// How well scores tell positives from negatives: the ROC curve and what is read off it.
#pragma once

#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// What is called positive if it reaches a threshold.
struct RocPoint {
  double false_positive_rate = 0, true_positive_rate = 0;
};

/// A point for each distinct score as the threshold, from (0, 0) to (1, 1); empty where there are no
/// negatives or no positives. Scores are finite, and higher for a positive.
std::vector<RocPoint> roc_curve(const std::vector<double>& negatives,
                                const std::vector<double>& positives);
/// The chance that a positive scores higher than a negative, where a tie counts half; nothing for an
/// empty curve.
std::optional<double> auroc_of(const std::vector<RocPoint>& curve);
/// The highest true positive rate of a threshold whose false positive rate is at most `most`; not
/// interpolated.
std::optional<double> true_positive_rate_at(const std::vector<RocPoint>& curve, double most);

/// {auroc, tpr_at_1_fpr, tpr_at_5_fpr}; null where there are no negatives or no positives.
nlohmann::json separation(const std::vector<RocPoint>& curve);

}  // namespace backstop::report
