// The engine in processes of their own, one for each run, so that a plugin which crashes, ends the
// process or never returns costs one stage, and so that runs can go on side by side. The program
// starts itself again with the same command line, and with the recipe in a file that only the two of
// them have; the child does the work and tells its events, this process shows them. See
// docs/decisions/0009 and 0011.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

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
  /// What is to be done; `interrupted`, `pulse` and `observer` are this link's. The recipe is that of
  /// `checked`. Throws HostError when its plugins are no longer there.
  [[nodiscard]] engine::RunRequest request(recipe::CheckedRecipe& checked,
                                           const catalog::Catalog& catalog);

 private:
  EngineLink(SharedPage* page, int descriptor, nlohmann::json order);
  void send(const nlohmann::json& message);

  SharedPage* page_;
  int descriptor_;
  nlohmann::json order_;
  std::string what_;  ///< progress() told last
  std::chrono::steady_clock::time_point told_;
};

/// Runs several requests in children that are started as `invocation` was, at most `jobs` at a time.
/// A child that a stage ended is started again without that stage. A stage that gives no sign of
/// life for `stall_limit` is ended; zero: never. `ended` is called with the number of the request
/// whose run came to its end, and says whether more are to be started. What trains the same model as
/// a run that is training it waits until others have begun. Throws HostError.
void run_in_children(const Invocation& invocation, const std::vector<engine::RunRequest>& requests,
                     std::size_t jobs, std::chrono::seconds stall_limit,
                     const std::function<bool(std::size_t, const engine::RunOutcome&)>& ended);

}  // namespace backstop::cli
