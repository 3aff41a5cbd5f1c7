#include "host/report/expectations.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/report/audit.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

nlohmann::json number_or_null(std::optional<double> value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

bool within(double value, const Expectation& bounds) {
  return (!bounds.minimum || value >= *bounds.minimum) &&
         (!bounds.maximum || value <= *bounds.maximum);
}

constexpr std::string_view kExtra = "extra.";

/// A plugin's own metric, or one of the host's.
std::optional<double> value_of(const nlohmann::json& row, const std::string& metric,
                               std::string_view section) {
  if (metric.starts_with(kExtra))
    return number_in(section_of(row, "extra"), std::string_view(metric).substr(kExtra.size()));
  return number_in(section_of(row, section), metric);
}

/// What else there is instead of a plugin's metric.
std::string not_recorded(const nlohmann::json& row, const std::string& metric) {
  std::vector<std::string> names;
  for (const auto& item : section_of(row, "extra").items()) names.push_back(item.key());
  return fmt::format("its plugin recorded no `{}`{}", metric.substr(kExtra.size()),
                     names.empty() ? "" : ", but " + base::list_of(names));
}

/// Why there is no row; the defenses of an attack that failed are never run.
std::string absence(const nlohmann::json& rows) {
  return !rows.empty() && has_failed(rows[0]) ? objection_to_attack(rows) : "there is no such row";
}

/// Why the value does not count; empty when it does.
std::string objection(const nlohmann::json& rows, const nlohmann::json& row,
                      const Expectation& bounds, bool measured) {
  const Metric* metric = find_metric(bounds.metric);
  if (metric == nullptr) metric = find_audit_metric(bounds.metric);
  const bool of_backdoor = metric != nullptr && metric->of_backdoor;
  if (metric != nullptr && number_in(section_of(row, "counts"), metric->images) == 0.0)
    return fmt::format("no test image counts for `{}` (n = 0)", bounds.metric);
  if (is_void(row) && (!measured || of_backdoor)) return warning_of(row);
  if (of_backdoor && &row != &rows[0])
    if (const std::string text = objection_to_attack(rows); !text.empty()) return text;
  if (measured) return {};
  if (bounds.metric.starts_with(kExtra)) return not_recorded(row, bounds.metric);
  // Of two models, and the other one is no measure.
  if (bounds.metric == "clean_accuracy_drop" && is_void(rows[0])) return objection_to_attack(rows);
  return fmt::format("`{}` was not measured for this row", bounds.metric);
}

/// What an audit measured of the row's model.
std::optional<double> audited(const nlohmann::json& audits, const Expectation& bounds) {
  const auto entry =
      std::find_if(audits.begin(), audits.end(), [&](const nlohmann::json& candidate) {
        return candidate.at("name") == bounds.row && !candidate.value("control", false);
      });
  if (entry == audits.end()) return {};
  return number_in(section_of(*entry, "metrics"), bounds.metric);
}

nlohmann::json check(const nlohmann::json& rows, const nlohmann::json& audits,
                     const Expectation& bounds) {
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const nlohmann::json& candidate) {
    return candidate.at("name") == bounds.row;
  });
  std::optional<double> value;
  std::string reason;
  if (row == rows.end()) {
    reason = absence(rows);
  } else {
    const Metric* metric = find_metric(bounds.metric);
    value = find_audit_metric(bounds.metric) != nullptr
                ? audited(audits, bounds)
                : value_of(*row, bounds.metric, metric == nullptr ? "metrics" : metric->section);
    reason = objection(rows, *row, bounds, value.has_value());
  }
  nlohmann::json entry = {{"row", bounds.row},
                          {"metric", bounds.metric},
                          {"value", number_or_null(value)},
                          {"minimum", number_or_null(bounds.minimum)},
                          {"maximum", number_or_null(bounds.maximum)},
                          {"met", value && within(*value, bounds) && reason.empty()}};
  if (!reason.empty()) entry["reason"] = reason;
  return entry;
}

/// Of a detector: its score, the names of the classes that it suspects, how well it tells triggered
/// images from clean ones, or a number that its plugin recorded.
nlohmann::json check_detector(const nlohmann::json& detector, const Expectation& expectation) {
  const auto& verdict = section_of(detector, "verdict");
  const bool of_model = expectation.classes || expectation.metric == "score";
  std::string reason = detector.contains("error") ? "failed: " + detector.value("error", "")
                       : of_model && verdict.contains("reason")
                           ? "no verdict: " + verdict.value("reason", "")
                           : "";
  nlohmann::json entry = {{"row", expectation.row}, {"metric", expectation.metric}};
  bool met = reason.empty();
  if (expectation.classes) {
    std::set<std::string> found;
    for (const auto& suspect : section_of(verdict, "suspects"))
      found.insert(suspect.value("class", ""));
    entry["value"] = found;
    entry["classes"] = *expectation.classes;
    met = met && found == std::set(expectation.classes->begin(), expectation.classes->end());
  } else {
    const auto value = value_of(detector, expectation.metric, of_model ? "verdict" : "inputs");
    if (!value && reason.empty())
      reason = expectation.metric.starts_with(kExtra)
                   ? not_recorded(detector, expectation.metric)
                   : fmt::format("`{}` was not measured for this row", expectation.metric);
    entry["value"] = number_or_null(value);
    entry["minimum"] = number_or_null(expectation.minimum);
    entry["maximum"] = number_or_null(expectation.maximum);
    met = met && value && within(*value, expectation);
  }
  entry["met"] = met;
  if (!reason.empty()) entry["reason"] = reason;
  return entry;
}

}  // namespace

nlohmann::json check_expectations(const nlohmann::json& rows, const std::vector<Expectation>& all,
                                  const nlohmann::json& detectors, const nlohmann::json& audits) {
  auto entries = nlohmann::json::array();
  for (const Expectation& expectation : all) {
    const auto detector = std::find_if(
        detectors.begin(), detectors.end(),
        [&](const nlohmann::json& candidate) { return candidate.at("name") == expectation.row; });
    entries.push_back(detector == detectors.end() ? check(rows, audits, expectation)
                                                  : check_detector(*detector, expectation));
  }
  return entries;
}

}  // namespace backstop::report
