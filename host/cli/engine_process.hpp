// The engine in a process of its own, so that a plugin which crashes, ends the process or never
// returns costs one stage. The program starts itself again with the same command line; the child
// does the work and tells its events, this process shows them. See docs/decisions/0009.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "host/base/error.hpp"
#include "host/cli/command.hpp"
#include "host/engine/engine.hpp"

namespace backstop::cli {

/// A page of memory that both processes have.
struct SharedPage {
  std::atomic<int> interrupted{0};  ///< a signal's number
  std::atomic<std::uint64_t> pulse{0};
  std::array<char, 512> call{};  ///< the call of a plugin during which the child crashed
};

/// The child's end. It exists in a child only.
class EngineLink final : public engine::RunObserver {
 public:
  /// Null in a process that the user started. The first call takes the marker out of the
  /// environment, which plugins see.
  static EngineLink* get();

  void event(const nlohmann::json& event) override;
  void progress(std::int64_t done, std::int64_t total, const std::string& what) override;
  void outcome(const engine::RunOutcome& outcome);
  /// A plugin is about to end this process.
  void ended(base::ExitCode code, const std::string& error, const std::string& hint);

  [[nodiscard]] SharedPage& page() { return *page_; }
  [[nodiscard]] const std::optional<engine::EarlierProcess>& earlier() const { return earlier_; }

 private:
  EngineLink(SharedPage* page, int descriptor, const nlohmann::json& earlier);
  void send(const nlohmann::json& message);

  SharedPage* page_;
  int descriptor_;
  std::optional<engine::EarlierProcess> earlier_;
  std::string what_;  ///< progress() told last
  std::chrono::steady_clock::time_point told_;
};

/// Runs `request` in a child that is started as `invocation` was, and again without the stage that
/// ended it. The child takes its recipes and all but `observer` from the command line. A stage that
/// gives no sign of life for `stall_limit` is ended; zero: never. Throws HostError.
void run_in_child(const Invocation& invocation, const engine::RunRequest& request,
                  std::chrono::seconds stall_limit, engine::RunOutcome& outcome);

}  // namespace backstop::cli
