// Shows the user what a run is doing: log lines and a progress bar on stderr; on stdout the results
// or, with --json, every event.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
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
  std::vector<std::string> groups = {};  ///< of all runs, by number
  /// What goes to standard output for a run; left out: its table of results.
  std::function<std::string(const nlohmann::json& results)> text = {};
};

class ConsoleObserver {
 public:
  explicit ConsoleObserver(ObserverOptions options);

  /// Who hears of the run of that number.
  [[nodiscard]] engine::RunObserver& of(std::size_t number) { return runs_.at(number); }

  /// To be called after the last event: removes the progress bar.
  void end() { erase_bar(); }

  /// In the order of their numbers.
  [[nodiscard]] std::vector<report::FinishedRun> finished() const;
  /// Why stdout could not be written; the run does not stop for that.
  [[nodiscard]] const std::optional<base::HostError>& output_error() const { return output_error_; }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Progress { none, lines, bar };
  static Progress progress_kind();

  class Run final : public engine::RunObserver {
   public:
    Run(ConsoleObserver& console, std::size_t number) : console_(console), number_(number) {}
    void event(const nlohmann::json& event) override;
    void progress(std::int64_t done, std::int64_t total, const std::string& what) override;
    /// "120/500 images trained, 10 s left"
    [[nodiscard]] std::string count() const;
    [[nodiscard]] bool counts() const { return !what_.empty(); }

   private:
    friend class ConsoleObserver;
    void tell(const nlohmann::json& event);
    void finish(const nlohmann::json& results);
    /// What stands before all that is said of the run: "2/9 ", or nothing if it is the only one.
    [[nodiscard]] std::string label() const;

    ConsoleObserver& console_;
    std::size_t number_;
    std::string stage_;  ///< "[attack] blended"
    std::string what_;   ///< what progress() is counting; empty: nothing
    std::int64_t done_ = 0, total_ = 0;
    Clock::time_point counting_since_, last_shown_;
    nlohmann::json results_;  ///< null until it has finished
  };

  void draw_bar();
  void erase_bar();

  ObserverOptions options_;
  Progress progress_ = progress_kind();
  std::deque<Run> runs_;
  std::optional<base::HostError> output_error_;
  Clock::time_point bar_drawn_;
  bool bar_is_drawn_ = false;
};

}  // namespace backstop::cli
