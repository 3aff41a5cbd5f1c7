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

/// Why the value does not count; empty when it does.
std::string objection(const nlohmann::json& row, const Bounds& bounds, bool measured) {
  const Metric* metric = find_metric(bounds.metric);
  const bool void_after_collapse = metric != nullptr && metric->needs_working_model;
  if (has_collapsed(row) && (!measured || void_after_collapse)) return warning_of(row);
  return measured ? "" : fmt::format("`{}` was not measured for this row", bounds.metric);
}

nlohmann::json check(const nlohmann::json& rows, const Bounds& bounds) {
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const nlohmann::json& candidate) {
    return candidate.at("name") == bounds.row;
  });
  std::optional<double> value;
  std::string reason = "there is no such row";
  if (row != rows.end()) {
    value = number_in(section_of(*row, "metrics"), bounds.metric);
    reason = objection(*row, bounds, value.has_value());
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
