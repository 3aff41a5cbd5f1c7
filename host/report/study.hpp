// Many runs together: for each combination of attack, dataset and defense the mean of each metric
// over the runs, its spread, and its difference from a baseline.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "host/report/metrics.hpp"
#include "host/report/run_folders.hpp"
#include "host/report/statistics.hpp"

namespace backstop::report {

/// Defense effectiveness rating (Zhu et al., "Enhancing Fine-Tuning Based Backdoor Defense with
/// Sharpness-Aware Minimization", ICCV 2023), 0 .. 1:
///
///     DER = (max(0, dASR) - max(0, dCA) + 1) / 2
///
/// where dASR and dCA are what attack success rate and clean accuracy have lost from the undefended
/// model to the defended one, in the same run and on the same test images. 0.5 is what doing nothing
/// gets.
const Metric& defense_effectiveness_rating();

struct StudyOptions {
  std::string baseline = "no defense";  ///< the row whose difference from the others is taken
  /// Keys of recipes; runs that differ in these alone are repetitions, as those of several seeds are.
  std::vector<std::string> ignored = {};
};

/// A run's number.
struct StudyValue {
  std::int64_t seed = 0;
  double value = 0;
};

/// A metric of a row.
struct StudyCell {
  std::vector<StudyValue> values;
  Spread spread;
  LeftOut left_out;
  /// From the baseline: of the same run, or else of another with the same seed. n counts pairs.
  Spread difference;
  bool best = false;  ///< see kRuleOfBest
};

/// A row of a run's results.
struct StudyPlace {
  std::size_t run = 0, row = 0;  ///< in `Study::runs`, and in its results
};

struct StudyRow {
  std::string name;       ///< with the parameters that set it apart from another of its name
  std::string plugin;     ///< empty: no defense
  std::string scheduler;  ///< its plugin; empty: none
  std::vector<StudyPlace> places;    ///< those of its runs
  std::vector<StudyPlace> repeated;  ///< the same in runs that share them, which do not count again
  std::vector<StudyCell> cells;      ///< for each metric
  std::vector<std::string> warnings;  ///< of the runs, each once
};

/// What is run under the same conditions.
struct StudyBlock {
  std::vector<std::string> conditions;  ///< values, for each of the study's
  std::vector<StudyRow> rows;           ///< "no defense" first
  std::vector<std::size_t> runs;        ///< which of `Study::runs`
};

struct Study {
  std::vector<StoredRun> runs;
  std::vector<std::string>
      conditions;  ///< keys of recipes in which blocks differ, attack and dataset first
  std::vector<const Metric*> metrics;  ///< those that some row has
  std::vector<StudyBlock> blocks;
  StudyOptions options;
  std::vector<std::string> notes;  ///< what was counted how
  std::vector<FolderNote> omitted;
};

/// Throws HostError(usage) where no block has the baseline, or an ignored key is in no recipe.
Study make_study(FoundRuns found, StudyOptions options);

inline constexpr const char* kRuleOfBest =
    "bold: the best defense of a metric under the same conditions, where its mean is better than "
    "that "
    "of the next by more than the larger of their two standard deviations; both have two runs or "
    "more, "
    "and rows with a warning do not compete";

/// "CA", "ASR", "DER", "wall time (s)".
std::string short_title(const Metric& metric);
/// "attack", "model", or the key.
std::string title_of_condition(const std::string& key);

/// All numbers, in full.
nlohmann::json json_of(const Study& study);

}  // namespace backstop::report
