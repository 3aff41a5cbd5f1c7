// Shows the user what a run is doing: log lines and a progress bar on stderr; on stdout the results
// or, with --json, every event.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/engine/engine.hpp"
#include "host/report/summary.hpp"

namespace backstop::cli {

struct ObserverOptions {
  bool json = false;
  bool color_out = false;
  std::vector<std::string> groups;  ///< of the runs, in the order in which they start
  /// What goes to standard output for a run; left out: its table of results.
  std::function<std::string(const nlohmann::json& results)> text;
};

class ConsoleObserver final : public engine::RunObserver {
 public:
  explicit ConsoleObserver(ObserverOptions options);

  void event(const nlohmann::json& event) override;
  void progress(std::int64_t done, std::int64_t total, const std::string& what) override;

  /// To be called after the last event: removes the progress bar.
  void end() { erase_bar(); }

  [[nodiscard]] const std::vector<report::FinishedRun>& finished() const { return finished_; }
  /// Why stdout could not be written; the run does not stop for that.
  [[nodiscard]] const std::optional<base::HostError>& output_error() const { return output_error_; }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Progress { none, lines, bar };
  static Progress progress_kind();

  void tell(const nlohmann::json& event);
  void finish_run(const nlohmann::json& results);
  void draw_bar(std::int64_t done, std::int64_t total, const std::string& text);
  void erase_bar();

  ObserverOptions options_;
  Progress progress_ = progress_kind();
  std::size_t started_ = 0;
  std::vector<report::FinishedRun> finished_;
  std::optional<base::HostError> output_error_;

  std::string stage_;  ///< "[attack] blended"
  std::string what_;   ///< what progress() is counting
  std::int64_t done_ = 0;
  Clock::time_point counting_since_, last_shown_;
  bool bar_is_drawn_ = false;
};

}  // namespace backstop::cli
