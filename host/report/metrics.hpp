// The numbers in a row of results.json, one entry each. The result table, results.csv, report.html,
// the summary of a [matrix], the log's epoch lines and [expect] follow from it: a new metric is an
// entry here and its computation (host/engine/run/measure.cpp).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace backstop::report {

enum class Range {
  share,       ///< 0 .. 1
  difference,  ///< -1 .. 1, of two shares
  amount,      ///< 0 or more
};
enum class Better { higher, lower, neither };
enum class Format { share, count, duration, memory };

struct Metric {
  std::string_view section;     ///< of the row: "metrics", "cost", ...
  std::string_view key;         ///< in that section
  std::string_view title = {};  ///< what people read; the table breaks it at its first space
  std::string_view csv = {};    ///< name of the column in results.csv; empty: none
  Range range = Range::amount;
  Better better = Better::neither;
  Format format = Format::count;  ///< of one with a title
  bool in_table = false;
  bool by_epoch = false;    ///< in the epoch lines, in `by_epoch` and in the curves; a share
  bool in_summary = false;  ///< mean and spread over the runs of a [matrix]
  bool in_expect = false;   ///< [expect] may bound it
  /// What the trigger does to the model. It says nothing about one that has collapsed, which passes
  /// for cured or for backdoored, nor about a defense where the attack did not take.
  bool of_backdoor = false;
  std::string_view definition = {};  ///< below the table
  std::string_view images = {};      ///< the key in `counts` of the number of images behind it
  std::vector<std::string_view> not_in = {};  ///< scenarios in which it does not exist
  std::string_view why_not = {};              ///< for those, the reason as a clause
};

/// In the order of the columns in table and CSV.
const std::vector<Metric>& metrics();
/// Those that have a property: `metrics_with(&Metric::in_table)`.
std::vector<const Metric*> metrics_with(bool Metric::*property);
/// What [expect] may bound in a scenario.
std::vector<const Metric*> expectable_metrics(std::string_view scenario);
/// Of the section "metrics", or one that [expect] may bound; null when there is none.
const Metric* find_metric(std::string_view key);
/// Of a plugin that scores images, in the section "inputs" of its row: what [expect] may bound, and
/// what the summary shows.
const std::vector<Metric>& input_metrics();
/// Whether the host writes a number of this name into results, so that no plugin may.
bool is_own_metric(std::string_view key);

/// The metric in a row of results; nothing where it is missing or null.
std::optional<double> value_of(const nlohmann::json& row, const Metric& metric);
/// "0.912", "10,000", "5 min 12 s"; "-" for nothing.
std::string text_of(const Metric& metric, std::optional<double> value);

/// The row's `by_epoch`, out of the `epoch` events of its stage.
nlohmann::json points_by_epoch(const nlohmann::json& events);
/// The clean accuracy of the undefended model less that of the row; null where either is missing,
/// and where the undefended model has collapsed.
nlohmann::json clean_accuracy_drop(const nlohmann::json& undefended, const nlohmann::json& row);

}  // namespace backstop::report
