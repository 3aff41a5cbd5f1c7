// The result table: what `backstop run` prints and the report shows, out of results.json's content.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::host {

/// The table before it is text.
struct ResultTable {
  struct Row {
    std::vector<std::string> cells;
    bool best = false;  ///< no defense has a lower attack success rate
  };
  struct Expectation {
    bool met = false;
    std::string text;
  };
  std::vector<std::string> header;
  std::vector<Row> rows;                 ///< "no defense" first
  std::vector<std::string> definitions;  ///< of the columns, with the number of images behind them
  std::vector<std::string> detections;   ///< what the defenses that detect poison found
  std::vector<Expectation> expectations;
};
/// The column of the attack success rate, which decides what is best.
inline constexpr std::size_t kAttackSuccessColumn = 2;

ResultTable lay_out_results(const nlohmann::json& results);

/// "PSNR 20.1 dB, SSIM 0.891 (means of the test images)" of the trigger that `row` ("no defense")
/// was measured with; empty when it does not say.
std::string trigger_text(const nlohmann::json& row);

/// lay_out_results as text; `color` marks the best row and the expectations.
std::string result_table(const nlohmann::json& results, bool color);

}  // namespace backstop::host
