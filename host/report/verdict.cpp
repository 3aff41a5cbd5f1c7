#include "host/report/verdict.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/report/fields.hpp"

namespace backstop::report {
namespace {

constexpr double kStandardErrors = 3;
constexpr double kOneClassShare = 0.9;
constexpr double kDominatingClass = 0.5;  // from here on a healthy model may predict it that often
constexpr double kSmallestEffect = 0.05;
constexpr std::string_view kCollapsed = "collapsed: ", kFailed = "failed: ";

double standard_error(double share, double images) {
  return std::sqrt(share * (1 - share) / images);
}

std::string collapse(const nlohmann::json& row, std::int64_t classes) {
  const auto& metrics = section_of(row, "metrics");
  const auto& counts = section_of(row, "counts");
  if (const auto weights = number_in(counts, "not_finite_weights"); weights && *weights > 0)
    return fmt::format("{:.0f} of its weights {} not finite", *weights,
                       *weights == 1 ? "is" : "are");
  if (const auto broken = number_in(counts, "not_finite"); broken && *broken > 0)
    return fmt::format("the logits of {:.0f} test images are not finite", *broken);

  const auto images = number_in(counts, "clean");
  const auto predicted = number_in(metrics, "largest_predicted_class_share");
  const auto members = number_in(counts, "largest_predicted_class");
  if (images && predicted && members && *predicted >= kOneClassShare &&
      *members < kDominatingClass * *images)
    return fmt::format("predicts one class for {:.0f} % of clean images", 100 * *predicted);

  const auto accuracy = number_in(metrics, "clean_accuracy");
  if (!images || !accuracy || classes < 2) return {};
  const double chance = 1 / static_cast<double>(classes);
  const double error = kStandardErrors * standard_error(chance, *images);
  if (*accuracy > chance + error) return {};
  return fmt::format("clean accuracy {:.3f} is {} chance for {} classes", *accuracy,
                     *accuracy < chance - error ? "below" : "at", classes);
}

std::string failed_attack(const nlohmann::json& row) {
  const auto& metrics = section_of(row, "metrics");
  const auto& counts = section_of(row, "counts");
  const auto success = number_in(metrics, "attack_success_rate");
  auto clean = number_in(metrics, "clean_target_rate");
  auto clean_images = number_in(counts, "triggered");
  const auto triggered_images = clean_images;
  if (!clean) {  // without targets, all images count
    clean = number_in(metrics, "attack_class_clean_share");
    clean_images = number_in(counts, "clean");
  }
  if (!success || !clean || !triggered_images || !clean_images) return {};

  const double n = *triggered_images, m = *clean_images;
  const double pooled = (*success * n + *clean * m) / (n + m);
  const double error = std::sqrt(pooled * (1 - pooled) * (1 / n + 1 / m));
  const double difference = *success - *clean;
  if (difference >= kSmallestEffect && difference > kStandardErrors * error) return {};
  return fmt::format(
      "attack success rate {:.3f} is not clearly above {:.3f}, its value without the trigger",
      *success, *clean);
}

}  // namespace

std::optional<std::string> verdict(const nlohmann::json& row, std::int64_t classes, bool attacked) {
  if (const std::string text = collapse(row, classes); !text.empty())
    return std::string(kCollapsed) + text;
  if (const std::string text = attacked ? failed_attack(row) : ""; !text.empty())
    return "attack did not take: " + text;
  return std::nullopt;
}

nlohmann::json failed_row(const std::string& name, const nlohmann::json& plugin,
                          const std::string& message) {
  std::string line = message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  return {{"name", name},
          {"plugin", plugin},
          {"error", message},
          {"warning", std::string(kFailed) + line}};
}

std::string warning_of(const nlohmann::json& row) {
  const auto warning = row.find("warning");
  return warning != row.end() && warning->is_string() ? warning->get<std::string>() : "";
}

bool has_failed(const nlohmann::json& row) {
  return warning_of(row).starts_with(kFailed);
}

bool has_collapsed(const nlohmann::json& row) {
  return warning_of(row).starts_with(kCollapsed);
}

bool is_void(const nlohmann::json& row) {
  return has_failed(row) || has_collapsed(row);
}

std::string objection_to_attack(const nlohmann::json& rows) {
  const std::string warning = rows.empty() ? "" : warning_of(rows[0]);
  return warning.empty() ? "" : "\"no defense\": " + warning;
}

}  // namespace backstop::report
