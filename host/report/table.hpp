// The result table: what `backstop run` prints and the report shows, out of results.json's content.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// The table before it is text.
struct ResultTable {
  struct Row {
    std::vector<std::string> cells;
    std::vector<bool> best;  ///< of each cell: no defense does better
  };
  struct Expectation {
    bool met = false;
    std::string text;
  };
  std::vector<std::string> header;
  std::vector<Row> rows;                 ///< "no defense" first
  std::vector<std::string> definitions;  ///< of the columns, with the number of images behind them
  /// Clean accuracy and attack success by epoch, a row for each row that was measured on the way;
  /// some of the epochs. Empty where there is nothing to see.
  std::vector<std::vector<std::string>> curves;
  std::vector<std::string> findings;  ///< what the defenses detected and recorded
  std::vector<Expectation> expectations;
};
ResultTable lay_out_results(const nlohmann::json& results);

/// "PSNR 20.1 dB, SSIM 0.891 (means of the test images)" of the trigger that `row` ("no defense")
/// was measured with; empty when it does not say.
std::string trigger_text(const nlohmann::json& row);

/// lay_out_results as text; `color` marks the best of each column and the expectations.
std::string result_table(const nlohmann::json& results, bool color);

}  // namespace backstop::report
