#include "host/report/audit.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/csv.hpp"
#include "host/report/fields.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

Metric metric(std::string_view key, std::string_view title, Better better, std::string_view images,
              std::string_view definition) {
  return {.section = "metrics",
          .key = key,
          .title = title,
          .csv = key,
          .range = Range::share,
          .better = better,
          .format = Format::share,
          .in_table = true,
          .in_summary = true,
          .in_expect = true,
          .of_backdoor = true,
          .definition = definition,
          .images = images};
}

std::vector<Metric> make_metrics() {
  return {
      metric("retuned_attack_success_rate", "retuned attack success", Better::lower, "triggered",
             "attack success after fine-tuning on a few clean images and a handful of poisoned "
             "ones"),
      metric("retuned_clean_accuracy", "retuned clean accuracy", Better::neither, "clean",
             "clean accuracy of the same model"),
      metric("path_reach", "path reach", Better::lower, "triggered",
             "largest t at which attack success is above 0.5 for the weights (1 - t) \"no "
             "defense\" + t this model; - where it is so nowhere"),
      metric("reactivated_attack_success_rate", "reactivated attack success", Better::lower,
             "triggered",
             "attack success when one small perturbation, made for this model, is added to all "
             "triggered images"),
      metric("perturbed_target_rate", "perturbed target rate", Better::neither, "triggered",
             "the same without the trigger, with a perturbation of its own: how easily the model "
             "is led to the target anyway"),
      metric("universal_fooling_rate", "universal fooling rate", Better::lower, "clean",
             "clean images whose class changes with one perturbation for all of them"),
      metric("adversarial_accuracy", "adversarial accuracy", Better::higher, "adversarial",
             "images classified correctly though each is perturbed by itself (PGD)"),
  };
}

/// Of the model before anything is done to it, and of the audit.
std::vector<const Metric*> columns() {
  std::vector<const Metric*> all = {find_metric("clean_accuracy"),
                                    find_metric("attack_success_rate")};
  for (const Metric& metric : audit_metrics()) all.push_back(&metric);
  return all;
}

std::string number_field(const nlohmann::json& object, std::string_view key) {
  const auto value = number_in(object, key);
  return value ? base::shortest(*value) : "";
}

}  // namespace

const std::vector<Metric>& audit_metrics() {
  static const std::vector<Metric> kMetrics = make_metrics();
  return kMetrics;
}

std::string audited_name(const nlohmann::json& entry) {
  return entry.value("name", "") + (entry.value("control", false) ? " (control)" : "");
}

const Metric* find_audit_metric(std::string_view key) {
  const auto& all = audit_metrics();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Metric& metric) { return metric.key == key; });
  return found == all.end() ? nullptr : &*found;
}

AuditTable lay_out_audits(const nlohmann::json& results) {
  AuditTable table;
  const auto& audits = section_of(results, "audits");
  if (const std::string reason = results.value("audit_reason", ""); !reason.empty())
    table.notes.push_back("no audit: " + reason);
  nlohmann::json counts = nlohmann::json::object();
  for (const auto& entry : audits) {
    counts.update(section_of(entry, "counts"));
    if (entry.contains("reason"))
      table.notes.push_back(
          fmt::format("{} was not audited: {}", audited_name(entry), entry.value("reason", "")));
  }
  std::vector<const Metric*> shown = columns();
  std::erase_if(shown, [&](const Metric* metric) {
    return std::none_of(audits.begin(), audits.end(), [&](const nlohmann::json& entry) {
      return section_of(entry, "metrics").contains(metric->key);
    });
  });
  if (shown.empty()) return table;
  table.header = {"audit"};
  table.metrics = {nullptr};
  for (const Metric* metric : shown) {
    table.header.emplace_back(metric->title);
    table.metrics.push_back(metric);
  }
  for (const auto& entry : audits) {
    if (entry.contains("reason")) continue;
    auto& line = table.rows.emplace_back(1, audited_name(entry));
    for (const Metric* metric : shown) line.push_back(text_of(*metric, value_of(entry, *metric)));
  }
  for (const Metric* metric : shown)
    if (find_audit_metric(metric->key) != nullptr)
      table.definitions.push_back(fmt::format(
          "{}: {} (n = {})", metric->title, metric->definition,
          base::grouped(static_cast<std::int64_t>(number_in(counts, metric->images).value_or(0)))));
  table.definitions.emplace_back(
      "a backdoor that is gone comes back no faster than it comes to a control");
  return table;
}

std::string audit_table(const nlohmann::json& results, bool color) {
  const AuditTable table = lay_out_audits(results);
  std::string text;
  if (!table.rows.empty()) {
    std::vector<std::vector<base::Cell>> lines(2);
    for (const auto& name : table.header) {
      const auto space = name.find(' ');
      lines[0].push_back({space == std::string::npos ? "" : name.substr(0, space)});
      lines[1].push_back({space == std::string::npos ? name : name.substr(space + 1)});
    }
    for (const auto& row : table.rows) {
      auto& line = lines.emplace_back();
      for (const auto& cell : row) line.push_back({cell});
    }
    text += '\n' + base::columns(lines, "l" + std::string(table.header.size() - 1, 'r')) + '\n';
  }
  for (const auto& line : table.notes)
    text += fmt::format("{}warning:{} {}\n", color ? base::kYellow : "", color ? base::kReset : "",
                        base::printable(line));
  for (const auto& line : table.definitions) text += line + '\n';
  return text;
}

std::string audit_csv(const nlohmann::json& results) {
  const auto& audits = section_of(results, "audits");
  if (audits.empty()) return "";
  std::string text = "run,seed,model,control";
  for (const Metric* metric : columns()) text += ',' + std::string(metric->csv);
  text += ",reason\n";
  for (const auto& entry : audits) {
    text += fmt::format("{},{},{},{}", text_cell(results.value("name", "")),
                        section_of(results, "seed").dump(), text_cell(entry.value("name", "")),
                        entry.value("control", false));
    for (const Metric* metric : columns())
      text += ',' + number_field(section_of(entry, "metrics"), metric->key);
    text += ',' + text_cell(entry.value("reason", "")) + '\n';
  }
  return text;
}

std::string audit_path_csv(const nlohmann::json& results) {
  constexpr std::string_view kKeys[] = {"t", "attack_success_rate", "clean_accuracy",
                                        "target_loss"};
  std::string lines;
  for (const auto& entry : section_of(results, "audits"))
    for (const auto& point : section_of(entry, "path")) {
      lines += text_cell(entry.value("name", "")) + ',' +
               (entry.value("control", false) ? "true" : "false");
      for (const auto key : kKeys) lines += ',' + number_field(point, key);
      lines += '\n';
    }
  return lines.empty() ? ""
                       : "model,control,t,attack_success_rate,clean_accuracy,target_loss\n" + lines;
}

}  // namespace backstop::report
