#include "host/report/study.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/report/fields.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

constexpr const char* kUndefended = "no defense";

struct Title {
  std::string_view key, text;
};
constexpr Title kConditions[] = {{"dataset.plugin", "dataset"},
                                 {"attack.plugin", "attack"},
                                 {"scenario", "scenario"},
                                 {"pretraining.dataset.plugin", "pre-training"},
                                 {"model.architecture", "model"},
                                 {"model.width", "width"},
                                 {"attack.poison_ratio", "poison ratio"},
                                 {"compute.precision", "precision"},
                                 {"attack.target", "target"}};

std::string value_in(const Parameters& parameters, const std::string& key) {
  const auto found = parameters.find(key);
  return found == parameters.end() ? "-" : found->second;
}

/// By numbers where there are any: "2" before "10".
bool comes_before(const std::string& a, const std::string& b) {
  char *end_a = nullptr, *end_b = nullptr;
  const double x = std::strtod(a.c_str(), &end_a), y = std::strtod(b.c_str(), &end_b);
  const bool numbers = !a.empty() && !b.empty() && *end_a == '\0' && *end_b == '\0';
  return numbers && x != y ? x < y : a < b;
}

std::string measured_on(const nlohmann::json& row) {
  return row.contains("measured_on") && row["measured_on"].is_string()
             ? row["measured_on"].get<std::string>()
             : "";
}

/// Writes the rating of each defense into its metrics.
void rate_defenses(nlohmann::json& results) {
  auto& rows = results["rows"];
  if (rows.empty()) return;
  const auto value = [](const nlohmann::json& row, std::string_view key) {
    return number_in(section_of(row, "metrics"), key);
  };
  const auto asr_before = value(rows[0], "attack_success_rate");
  const auto ca_before = value(rows[0], "clean_accuracy");
  if (!asr_before || !ca_before || is_void(rows[0])) return;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const auto asr = value(rows[i], "attack_success_rate");
    const auto ca = value(rows[i], "clean_accuracy");
    if (!asr || !ca || measured_on(rows[i]) != measured_on(rows[0])) continue;
    const double removed = std::max(0.0, *asr_before - *asr);
    const double lost = std::max(0.0, *ca_before - *ca);
    rows[i]["metrics"][std::string(defense_effectiveness_rating().key)] = (removed - lost + 1) / 2;
  }
}

/// What a study may show, in the order of its columns.
std::vector<const Metric*> study_metrics() {
  std::vector<const Metric*> chosen;
  for (const Metric& metric : metrics()) {
    if (metric.key == "true_positive_rate") chosen.push_back(&defense_effectiveness_rating());
    if (metric.in_summary || metric.key == "robust_accuracy" ||
        metric.key == "attack_class_clean_share" || (metric.section == "cost" && metric.in_table))
      chosen.push_back(&metric);
  }
  return chosen;
}

class Maker {
 public:
  Maker(FoundRuns found, StudyOptions options) {
    study_.runs = std::move(found.runs);
    study_.options = std::move(options);
    study_.omitted = std::move(found.omitted);
    for (auto& run : study_.runs)
      if (value_in(run.recipe, "attack.plugin") != "none") rate_defenses(run.results);
    drop_ignored();
    note_folders(found);
  }

  Study make() {
    group();
    name_conditions();
    study_.metrics = study_metrics();
    for (auto& block : study_.blocks) fill(block);
    drop_empty_metrics();
    for (auto& block : study_.blocks) {
      mark_best(block);
      compare(block);
    }
    check_baseline();
    note_measurements();
    note_machines();
    return std::move(study_);
  }

 private:
  void drop_ignored() {
    for (const auto& key : study_.options.ignored) {
      std::size_t dropped = 0;
      for (auto& run : study_.runs) dropped += run.recipe.erase(key);
      if (dropped > 0) {
        study_.notes.push_back(
            fmt::format("runs that differ only in `{}` count as repetitions", key));
        continue;
      }
      std::vector<std::string> keys;
      for (const auto& run : study_.runs)
        for (const auto& [name, value] : run.recipe) keys.push_back(name);
      const auto meant = base::nearest(key, keys);
      throw base::HostError(base::ExitCode::usage,
                            fmt::format("no recipe of these runs has the key `{}`", key),
                            meant ? fmt::format("did you mean `{}`?", *meant) : "");
    }
  }

  void note_folders(const FoundRuns& found) {
    auto& notes = study_.notes;
    notes.push_back(fmt::format("{} counted", base::count_of(study_.runs.size(), "run")));
    for (const auto& [folder, other] : found.repeated)
      notes.push_back(
          fmt::format("not counted again: {} has the recipe and the results of {}", folder, other));
    for (const auto& [folder, reason] : found.doubtful)
      notes.push_back(fmt::format("counted, but {}: {}", reason, folder));
    for (const auto& [folder, reason] : study_.omitted)
      notes.push_back(fmt::format("not counted: {}: {}", folder, reason));
  }

  void group() {
    std::map<Parameters, std::size_t> index;
    for (std::size_t i = 0; i < study_.runs.size(); ++i) {
      const auto [place, is_new] = index.emplace(study_.runs[i].recipe, study_.blocks.size());
      if (is_new) study_.blocks.emplace_back();
      study_.blocks[place->second].runs.push_back(i);
    }
  }

  [[nodiscard]] const Parameters& recipe_of(const StudyBlock& block) const {
    return study_.runs[block.runs.front()].recipe;
  }

  [[nodiscard]] bool differs(const std::string& key) const {
    std::set<std::string> values;
    for (const auto& block : study_.blocks) values.insert(value_in(recipe_of(block), key));
    return values.size() > 1;
  }

  /// Whether blocks that look the same so far do not with `key`.
  [[nodiscard]] bool sets_apart(const std::string& key) const {
    std::map<std::vector<std::string>, std::set<std::string>> values;
    for (const auto& block : study_.blocks)
      values[conditions_of(block)].insert(value_in(recipe_of(block), key));
    return std::any_of(values.begin(), values.end(),
                       [](const auto& item) { return item.second.size() > 1; });
  }

  [[nodiscard]] std::vector<std::string> conditions_of(const StudyBlock& block) const {
    std::vector<std::string> values;
    for (const auto& key : study_.conditions) values.push_back(value_in(recipe_of(block), key));
    return values;
  }

  void name_conditions() {
    study_.conditions = {"dataset.plugin", "attack.plugin"};
    for (const auto& [key, text] : kConditions)
      if (const std::string name(key); key != "dataset.plugin" && key != "attack.plugin" &&
                                       key != "attack.target" && differs(name))
        study_.conditions.push_back(name);
    std::set<std::string> keys;
    for (const auto& block : study_.blocks)
      for (const auto& [key, value] : recipe_of(block)) keys.insert(key);
    for (const auto& key : keys)
      if (sets_apart(key)) study_.conditions.push_back(key);
    for (auto& block : study_.blocks) block.conditions = conditions_of(block);
    std::sort(study_.blocks.begin(), study_.blocks.end(),
              [](const StudyBlock& a, const StudyBlock& b) {
                return std::lexicographical_compare(a.conditions.begin(), a.conditions.end(),
                                                    b.conditions.begin(), b.conditions.end(),
                                                    comes_before);
              });
  }

  // -- rows --

  struct Candidate {
    std::string name;
    Parameters parameters;
    std::vector<StudyPlace> places;
    std::vector<StudyPlace> repeated;  ///< rows that are one of `places` again, in other runs
  };

  [[nodiscard]] const nlohmann::json& rows_of(std::size_t run) const {
    return study_.runs[run].results["rows"];
  }
  [[nodiscard]] const nlohmann::json& at(const StudyPlace& place) const {
    return rows_of(place.run)[place.row];
  }

  /// The same row of runs that share a stage, such as the undefended model of two recipes, is one.
  [[nodiscard]] bool is_repeated(const Candidate& candidate, const StudyPlace& place) const {
    return std::any_of(
        candidate.places.begin(), candidate.places.end(), [&](const StudyPlace& earlier) {
          return study_.runs[earlier.run].seed == study_.runs[place.run].seed &&
                 section_of(at(earlier), "metrics") == section_of(at(place), "metrics") &&
                 warning_of(at(earlier)) == warning_of(at(place));
        });
  }

  std::vector<Candidate> candidates_of(const StudyBlock& block) {
    std::vector<Candidate> all;
    for (const std::size_t run : block.runs)
      for (std::size_t row = 0; row < rows_of(run).size(); ++row) {
        const auto name = rows_of(run)[row]["name"].get<std::string>();
        const auto& defenses = study_.runs[run].defenses;
        const auto found = defenses.find(name);
        const Parameters parameters = found == defenses.end() ? Parameters{} : found->second;
        auto candidate = std::find_if(all.begin(), all.end(), [&](const Candidate& one) {
          return one.name == name && one.parameters == parameters;
        });
        if (candidate == all.end())
          candidate = all.insert(all.end(), Candidate{name, parameters, {}, {}});
        if (const StudyPlace place{run, row}; is_repeated(*candidate, place))
          candidate->repeated.push_back(place), ++repeated_rows_;
        else
          candidate->places.push_back(place);
      }
    std::stable_partition(all.begin(), all.end(),
                          [](const Candidate& one) { return one.name == kUndefended; });
    return all;
  }

  /// The parameters in which rows of one name differ: "nad (epochs = 10)".
  static std::string full_name(const Candidate& candidate, const std::vector<Candidate>& all) {
    std::set<std::string> differing;
    for (const auto& other : all) {
      if (other.name != candidate.name) continue;
      for (const auto* parameters : {&other.parameters, &candidate.parameters})
        for (const auto& [key, value] : *parameters)
          if (value_in(other.parameters, key) != value_in(candidate.parameters, key))
            differing.insert(key);
    }
    std::string text;
    for (const auto& key : differing)
      text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", key,
                          value_in(candidate.parameters, key));
    return text.empty() ? candidate.name : fmt::format("{} ({})", candidate.name, text);
  }

  void fill(StudyBlock& block) {
    const auto candidates = candidates_of(block);
    for (const auto& candidate : candidates) {
      auto& row = block.rows.emplace_back();
      row.name = full_name(candidate, candidates);
      row.scheduler = value_in(candidate.parameters, "scheduler.plugin");
      row.places = candidate.places;
      row.repeated = candidate.repeated;
      row.cells.resize(study_.metrics.size());
      std::set<std::int64_t> seeds;
      for (const auto& place : candidate.places) {
        const auto& result = at(place);
        if (!seeds.insert(study_.runs[place.run].seed).second) ++repeated_seeds_;
        if (result.contains("plugin") && result["plugin"].is_string())
          row.plugin = result["plugin"].get<std::string>();
        add_warning(row, warning_of(result));
        if (const auto objection = objection_to_attack(rows_of(place.run));
            &result != &rows_of(place.run)[0])
          add_warning(row, objection);
        for (std::size_t m = 0; m < study_.metrics.size(); ++m) add(row.cells[m], place, m);
      }
      for (auto& cell : row.cells) cell.spread = spread_of(numbers_of(cell.values));
    }
  }

  static void add_warning(StudyRow& row, const std::string& warning) {
    if (!warning.empty() &&
        std::find(row.warnings.begin(), row.warnings.end(), warning) == row.warnings.end())
      row.warnings.push_back(warning);
  }

  void add(StudyCell& cell, const StudyPlace& place, std::size_t m) {
    const auto contribution = contribution_of(rows_of(place.run), at(place), *study_.metrics[m]);
    cell.left_out.add(contribution.reason);
    if (contribution.reason == Contribution::Reason::counted)
      cell.values.push_back({study_.runs[place.run].seed, contribution.value});
  }

  static std::vector<double> numbers_of(const std::vector<StudyValue>& values) {
    std::vector<double> numbers;
    for (const auto& [seed, value] : values) numbers.push_back(value);
    return numbers;
  }

  void drop_empty_metrics() {
    for (std::size_t m = study_.metrics.size(); m-- > 0;) {
      const bool gpu_or_cpu = study_.metrics[m]->key == "gpu_seconds";
      const bool used =
          std::any_of(study_.blocks.begin(), study_.blocks.end(), [&](const StudyBlock& block) {
            return std::any_of(block.rows.begin(), block.rows.end(), [&](const StudyRow& row) {
              const auto& spread = row.cells[m].spread;
              return spread.n > 0 && (!gpu_or_cpu || spread.mean > 0);
            });
          });
      if (used) continue;
      const auto at = static_cast<std::ptrdiff_t>(m);
      study_.metrics.erase(study_.metrics.begin() + at);
      for (auto& block : study_.blocks)
        for (auto& row : block.rows) row.cells.erase(row.cells.begin() + at);
    }
  }

  // -- comparisons --

  /// kRuleOfBest.
  void mark_best(StudyBlock& block) {
    for (std::size_t m = 0; m < study_.metrics.size(); ++m) {
      const Better better = study_.metrics[m]->better;
      if (better == Better::neither) continue;
      std::vector<StudyCell*> cells;
      for (auto& row : block.rows)
        if (!row.plugin.empty() && row.warnings.empty() && row.cells[m].spread.n > 0)
          cells.push_back(&row.cells[m]);
      if (cells.size() < 2) continue;
      std::partial_sort(cells.begin(), cells.begin() + 2, cells.end(),
                        [&](const StudyCell* a, const StudyCell* b) {
                          return better == Better::higher ? a->spread.mean > b->spread.mean
                                                          : a->spread.mean < b->spread.mean;
                        });
      const Spread &first = cells[0]->spread, &second = cells[1]->spread;
      cells[0]->best =
          first.deviation && second.deviation &&
          std::abs(first.mean - second.mean) > std::max(*first.deviation, *second.deviation);
    }
  }

  /// The baseline's row for a row of a run; none where it is measured on other data.
  std::optional<StudyPlace> partner_of(const StudyRow& baseline, const StudyPlace& place) const {
    const auto fits = [&](const StudyPlace& other) {
      return measured_on(at(other)) == measured_on(at(place));
    };
    for (const auto* places : {&baseline.places, &baseline.repeated})
      for (const auto& other : *places)
        if (other.run == place.run && fits(other)) return other;
    for (const auto& other : baseline.places)
      if (study_.runs[other.run].seed == study_.runs[place.run].seed && fits(other)) return other;
    return std::nullopt;
  }

  void compare(StudyBlock& block) {
    const auto baseline =
        std::find_if(block.rows.begin(), block.rows.end(),
                     [&](const StudyRow& row) { return row.name == study_.options.baseline; });
    if (baseline == block.rows.end()) return;
    has_baseline_ = true;
    for (std::size_t r = 0; r < block.rows.size(); ++r) {
      if (&block.rows[r] == &*baseline) continue;
      for (std::size_t m = 0; m < study_.metrics.size(); ++m) {
        std::vector<double> differences;
        for (const auto& place : block.rows[r].places)
          if (const auto partner = partner_of(*baseline, place)) {
            const Metric& metric = *study_.metrics[m];
            const auto mine = contribution_of(rows_of(place.run), at(place), metric);
            const auto its = contribution_of(rows_of(partner->run), at(*partner), metric);
            if (mine.reason == Contribution::Reason::counted &&
                its.reason == Contribution::Reason::counted)
              differences.push_back(mine.value - its.value);
          }
        block.rows[r].cells[m].difference = spread_of(differences);
      }
    }
  }

  void check_baseline() {
    if (has_baseline_ || study_.blocks.empty()) return;
    std::vector<std::string> names;
    for (const auto& block : study_.blocks)
      for (const auto& row : block.rows) names.push_back(row.name);
    if (names.empty()) return;
    const auto meant = base::nearest(study_.options.baseline, names);
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("no run has a row `{}` to compare with", study_.options.baseline),
        meant ? fmt::format("did you mean `{}`?", *meant)
              : fmt::format("a row is `{}`, for example", names.back()));
  }

  // -- notes --

  void note_measurements() {
    auto& notes = study_.notes;
    if (repeated_rows_ > 0)
      notes.push_back(fmt::format(
          "{} shared by several runs (the same seed and the same numbers) {} once",
          base::count_of(repeated_rows_, "row"), repeated_rows_ == 1 ? "counts" : "count"));
    if (repeated_seeds_ > 0)
      notes.push_back(fmt::format(
          "{} a seed that the row already has, with other numbers (other threads, another build "
          "or an ignored key), and {} like another seed",
          repeated_seeds_ == 1 ? "1 value of a row has"
                               : std::to_string(repeated_seeds_) + " values of rows have",
          repeated_seeds_ == 1 ? "counts" : "count"));
    for (const auto& block : study_.blocks)
      if (value_in(recipe_of(block), "scenario") == "transfer") {
        notes.emplace_back(
            "transfer: \"no defense\" is measured on the dataset of the pre-training, so nothing "
            "is "
            "compared with it; the ASR of the other rows is the share of all triggered images that "
            "are classified as the class that most of them are classified as");
        break;
      }
  }

  void note_machines() {
    std::map<std::string, std::size_t> machines;
    for (const auto& run : study_.runs)
      if (!run.machine.empty()) ++machines[run.machine];
    for (const auto& [machine, runs] : machines)
      study_.notes.push_back(
          fmt::format("computed with {}: {}", machine, base::count_of(runs, "run")));
  }

  Study study_;
  std::size_t repeated_rows_ = 0, repeated_seeds_ = 0;
  bool has_baseline_ = false;
};

nlohmann::json json_of(const Spread& spread) {
  nlohmann::json json = {{"n", spread.n},
                         {"mean", nullptr},
                         {"standard_deviation", nullptr},
                         {"low_95", nullptr},
                         {"high_95", nullptr}};
  if (spread.n > 0) json["mean"] = spread.mean;
  if (spread.deviation) json["standard_deviation"] = *spread.deviation;
  if (spread.margin) {
    json["low_95"] = spread.mean - *spread.margin;
    json["high_95"] = spread.mean + *spread.margin;
  }
  return json;
}

nlohmann::json json_of(const StudyCell& cell) {
  nlohmann::json json = json_of(cell.spread);
  json["collapsed"] = cell.left_out.collapsed;
  json["failed"] = cell.left_out.failed;
  json["without_backdoor"] = cell.left_out.no_backdoor;
  json["without_value"] = cell.left_out.no_value;
  json["best"] = cell.best;
  json["difference"] = json_of(cell.difference);
  for (const auto& [seed, value] : cell.values)
    json["values"].push_back({{"seed", seed}, {"value", value}});
  return json;
}

nlohmann::json json_of(const std::vector<FolderNote>& folders) {
  auto json = nlohmann::json::array();
  for (const auto& [folder, reason] : folders)
    json.push_back({{"folder", folder}, {"reason", reason}});
  return json;
}

}  // namespace

const Metric& defense_effectiveness_rating() {
  static const Metric kMetric{
      .section = "metrics",
      .key = "defense_effectiveness_rating",
      .title = "defense effectiveness rating",
      .csv = "defense_effectiveness_rating",
      .range = Range::share,
      .better = Better::higher,
      .format = Format::share,
      .of_backdoor = true,
      .definition =
          "(max(0, dASR) - max(0, dCA) + 1) / 2, where dASR and dCA are what ASR and CA "
          "have lost from the undefended model (Zhu et al., ICCV 2023)"};
  return kMetric;
}

std::string short_title(const Metric& metric) {
  constexpr Title kShort[] = {{"clean_accuracy", "CA"},
                              {"attack_success_rate", "ASR"},
                              {"robust_accuracy", "RA"},
                              {"defense_effectiveness_rating", "DER"},
                              {"true_positive_rate", "TPR"},
                              {"false_positive_rate", "FPR"},
                              {"auroc", "AUROC"}};
  for (const auto& [key, text] : kShort)
    if (metric.key == key) return std::string(text);
  const std::string title(metric.title);
  if (metric.format == Format::duration) return title + " (s)";
  if (metric.format == Format::memory) return title + " (MB)";
  return title;
}

std::string title_of_condition(const std::string& key) {
  for (const auto& [condition, text] : kConditions)
    if (condition == key) return std::string(text);
  return key;
}

Study make_study(FoundRuns found, StudyOptions options) {
  return Maker(std::move(found), std::move(options)).make();
}

nlohmann::json json_of(const Study& study) {
  nlohmann::json json = {{"backstop_report", 1},
                         {"baseline", study.options.baseline},
                         {"rule_of_best", kRuleOfBest},
                         {"notes", study.notes},
                         {"omitted", json_of(study.omitted)},
                         {"blocks", nlohmann::json::array()}};
  for (const auto& block : study.blocks) {
    nlohmann::json entry = {{"conditions", nlohmann::json::object()},
                            {"rows", nlohmann::json::array()}};
    for (std::size_t c = 0; c < study.conditions.size(); ++c)
      entry["conditions"][study.conditions[c]] = block.conditions[c];
    for (const auto& row : block.rows) {
      nlohmann::json line = {
          {"name", row.name},
          {"plugin", row.plugin.empty() ? nlohmann::json(nullptr) : nlohmann::json(row.plugin)},
          {"runs", row.places.size()},
          {"warnings", row.warnings},
          {"metrics", nlohmann::json::object()}};
      for (std::size_t m = 0; m < study.metrics.size(); ++m)
        line["metrics"][std::string(study.metrics[m]->key)] = json_of(row.cells[m]);
      entry["rows"].push_back(std::move(line));
    }
    json["blocks"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace backstop::report
