// The result table, made from results.json: what `backstop run` prints and the report shows.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "host/report/metrics.hpp"

namespace backstop::report {

/// The table before it is text.
struct ResultTable {
  struct Row {
    std::vector<std::string> cells;
    std::vector<bool> best;                     ///< for each cell: no defense does better
    std::vector<std::optional<double>> values;  ///< for each cell: of its metric
    bool marked = false;                        ///< `warnings` says why; never the best
  };
  struct Expectation {
    bool met = false;
    std::string text;
  };
  struct Detector {
    std::string name;
    std::vector<std::string> sentences;
    bool suspicious = false;
    std::vector<std::vector<std::string>> classes;  ///< titles first; may be empty
  };
  std::vector<std::string> header;
  std::vector<const Metric*> metrics;    ///< for each column; null where it is none
  std::vector<Row> rows;                 ///< "no defense" first
  std::vector<std::string> warnings;     ///< of the marked rows
  std::vector<std::string> definitions;  ///< of the columns, with the number of images behind them
  /// The metrics that are shown by epoch, for each row that was measured during training; some of
  /// the epochs. Empty where there is nothing to see.
  std::vector<std::vector<std::string>> curves;
  std::string curves_title;                      ///< "clean accuracy and attack success by epoch"
  std::vector<Detector> detectors;               ///< of models, and those that failed
  std::vector<std::vector<std::string>> inputs;  ///< detectors of inputs, titles first
  std::vector<std::string> input_definitions;    ///< of its columns
  std::vector<std::string> findings;             ///< what the defenses detected and recorded
  std::vector<Expectation> expectations;
};
ResultTable lay_out_results(const nlohmann::json& results);

/// "PSNR 20.1 dB, SSIM 0.891 (means over the test images)" for the trigger that `row` ("no
/// defense") was measured with; empty when the row does not say.
std::string trigger_text(const nlohmann::json& row);

/// Lines of cells, the first of each line to the left and the others to the right.
std::string text_columns(const std::vector<std::vector<std::string>>& lines);

/// lay_out_results as text; `color` sets off the best of each column, warnings and expectations.
std::string result_table(const nlohmann::json& results, bool color);

}  // namespace backstop::report
