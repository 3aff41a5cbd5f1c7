// What an [audit] says of the models: a table below the results, CSV, and what [expect] and the
// summary need.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "host/report/metrics.hpp"

namespace backstop::report {

/// In an entry of results.json's `audits`: {name, control, metrics, counts, path, cost}, or {name,
/// control, reason} of a model that was not audited. `control`: it is no defense's model.
const std::vector<Metric>& audit_metrics();
/// Null when there is none.
const Metric* find_audit_metric(std::string_view key);

/// What tables and figures call an entry of `audits`: "anp", "clean model (control)".
std::string audited_name(const nlohmann::json& entry);

struct AuditTable {
  std::vector<std::string> header;
  std::vector<const Metric*> metrics;  ///< for each column; null for the first
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> notes;        ///< why there are no numbers
  std::vector<std::string> definitions;  ///< of the columns
};
/// Empty without an [audit].
AuditTable lay_out_audits(const nlohmann::json& results);
/// The same as text.
std::string audit_table(const nlohmann::json& results, bool color);

/// A line for each model that was audited; empty without an [audit].
std::string audit_csv(const nlohmann::json& results);
/// A line for each model on each path; empty without one.
std::string audit_path_csv(const nlohmann::json& results);

}  // namespace backstop::report
