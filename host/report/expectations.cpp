#include "host/report/expectations.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

nlohmann::json number_or_null(std::optional<double> value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

/// Why there is no row; the defenses of an attack that failed are never run.
std::string absence(const nlohmann::json& rows) {
  return !rows.empty() && has_failed(rows[0]) ? objection_to_attack(rows) : "there is no such row";
}

/// Why the value does not count; empty when it does.
std::string objection(const nlohmann::json& rows, const nlohmann::json& row, const Bounds& bounds,
                      bool measured) {
  const Metric* metric = find_metric(bounds.metric);
  const bool of_backdoor = metric != nullptr && metric->of_backdoor;
  if (metric != nullptr && number_in(section_of(row, "counts"), metric->images) == 0.0)
    return fmt::format("no test image counts for `{}` (n = 0)", bounds.metric);
  if (is_void(row) && (!measured || of_backdoor)) return warning_of(row);
  if (of_backdoor && &row != &rows[0])
    if (const std::string text = objection_to_attack(rows); !text.empty()) return text;
  if (measured) return {};
  // Of two models, and the other one is no measure.
  if (bounds.metric == "clean_accuracy_drop" && is_void(rows[0])) return objection_to_attack(rows);
  return fmt::format("`{}` was not measured for this row", bounds.metric);
}

nlohmann::json check(const nlohmann::json& rows, const Bounds& bounds) {
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const nlohmann::json& candidate) {
    return candidate.at("name") == bounds.row;
  });
  std::optional<double> value;
  std::string reason;
  if (row == rows.end()) {
    reason = absence(rows);
  } else {
    value = number_in(section_of(*row, "metrics"), bounds.metric);
    reason = objection(rows, *row, bounds, value.has_value());
  }
  const bool within = value && (!bounds.minimum || *value >= *bounds.minimum) &&
                      (!bounds.maximum || *value <= *bounds.maximum);
  nlohmann::json entry = {{"row", bounds.row},
                          {"metric", bounds.metric},
                          {"value", number_or_null(value)},
                          {"minimum", number_or_null(bounds.minimum)},
                          {"maximum", number_or_null(bounds.maximum)},
                          {"met", within && reason.empty()}};
  if (!reason.empty()) entry["reason"] = reason;
  return entry;
}

}  // namespace

nlohmann::json check_expectations(const nlohmann::json& rows, const std::vector<Bounds>& all) {
  auto entries = nlohmann::json::array();
  for (const Bounds& bounds : all) entries.push_back(check(rows, bounds));
  return entries;
}

}  // namespace backstop::report
