#include "host/report/summary.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "host/base/text.hpp"
#include "host/report/fields.hpp"

namespace backstop::report {
namespace {

struct Samples {
  std::string name;
  std::vector<double> clean_accuracy, attack_success;
};

struct Group {
  std::string name;
  std::vector<Samples> rows;
};

template <typename Named>
Named& find_or_add(std::vector<Named>& all, const std::string& name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Named& one) { return one.name == name; });
  if (found != all.end()) return *found;
  all.emplace_back().name = name;
  return all.back();
}

std::string mean_and_spread(const std::vector<double>& values) {
  if (values.empty()) return "-";
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  const std::string runs = " (" + std::to_string(values.size()) + ")";
  if (values.size() == 1) return base::fixed(mean, 3) + runs;
  const double squares = std::accumulate(
      values.begin(), values.end(), 0.0,
      [mean](double sum, double value) { return sum + (value - mean) * (value - mean); });
  return base::fixed(mean, 3) + " ± " + base::fixed(std::sqrt(squares / (n - 1)), 3) + runs;
}

}  // namespace

std::string summary_table(const std::vector<FinishedRun>& runs, bool color) {
  std::vector<Group> groups;
  for (const auto& run : runs) {
    auto& rows = find_or_add(groups, run.group).rows;
    for (const auto& row : run.results.at("rows")) {
      auto& samples = find_or_add(rows, row.at("name").get<std::string>());
      const auto& metrics = section_of(row, "metrics");
      if (const auto value = number_in(metrics, "clean_accuracy"))
        samples.clean_accuracy.push_back(*value);
      if (const auto value = number_in(metrics, "attack_success_rate"))
        samples.attack_success.push_back(*value);
    }
  }
  std::string text;
  for (const auto& group : groups) {
    if (!group.name.empty())
      text += std::string(color ? base::kBold : "") + base::printable(group.name) +
              std::string(color ? base::kReset : "") + '\n';
    std::vector<std::vector<base::Cell>> lines{
        {{"defense"}, {"clean accuracy"}, {"attack success"}}};
    for (const auto& row : group.rows)
      lines.push_back({{row.name},
                       {mean_and_spread(row.clean_accuracy)},
                       {mean_and_spread(row.attack_success)}});
    text += base::columns(lines, "lrr") + '\n';
  }
  return text + "mean ± sample standard deviation (number of runs)\n";
}

}  // namespace backstop::report
