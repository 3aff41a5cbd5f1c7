// The door between the command-line program, which does not know LibTorch, and the engine, a shared
// library that is loaded when something is to be run.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "host/catalog/catalog.hpp"
#include "host/error.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::host {

/// Hears what happens during a run. Called from one thread.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  /// One JSON object with a string "event":
  ///   run_started    {run, seed}                      run: the run's folder
  ///   stage_started  {stage, name, reused}            stage: "data", "attack" or "defense"; name:
  ///   the row's epoch          {stage, name, epoch, epochs, loss, clean_accuracy,
  ///   attack_success_rate,
  ///                   attack_success_rate_all, robust_accuracy}   epoch 0: before training, no
  ///                   loss
  ///   stage_finished {stage, name, wall_seconds, reused}
  ///   log            {level: "debug"|"info"|"warning", stage, name, message}
  ///   run_finished   {run, results}                   results: results.json's content
  virtual void event(const nlohmann::json& event) = 0;
  /// `done` of `total` units of `what` in the current stage; many times a second at most.
  virtual void progress(std::int64_t done, std::int64_t total, const std::string& what) = 0;
};

struct RunRequest {
  const std::vector<Recipe>* recipes = nullptr;
  const Catalog* catalog = nullptr;
  std::filesystem::path out = "runs";
  bool fresh = false;                             ///< train again what is already there
  const std::atomic<int>* interrupted = nullptr;  ///< a signal's number, or 0
  RunObserver* observer = nullptr;
};

struct RunOutcome {
  ExitCode code = ExitCode::done;
  std::string error;  ///< empty when nothing went wrong
  std::string hint;
  std::vector<std::filesystem::path> runs;  ///< folders of the runs, finished or not
};

/// The engine's exported functions. They never throw. void(const RunRequest&, RunOutcome&):
inline constexpr const char* kEngineRun = "backstop_engine_run";
inline constexpr const char* kEngineLibrary = "libbackstop_engine.so";

}  // namespace backstop::host
