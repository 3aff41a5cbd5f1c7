// One run on disk. It is written as the run proceeds, so that finished work is there if the run ends
// early.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "host/base/file_lock.hpp"
#include "host/base/files.hpp"
#include "host/engine/data/picture.hpp"
#include "host/engine/engine.hpp"
#include "host/engine/store/stage_store.hpp"

namespace backstop::engine {

/// <out>/<recipe's name>/<time>-<hash of the recipe>/, and an observer that writes metrics.jsonl
/// and log.txt on the way to the next observer. It is locked as long as the run lives.
class RunDirectory final : public RunObserver {
 public:
  RunDirectory(const std::filesystem::path& out, const std::string& name, const std::string& recipe,
               RunObserver* next);
  /// Goes on in the folder of a run whose process died. Its finished stages tell their epochs again.
  RunDirectory(const std::filesystem::path& run, RunObserver* next);

  /// Keeps a stage's `checkpoint` events, which no other observer hears: {stage, name, resumable,
  /// where}, the words that come after "goes on". The others are in engine.hpp.
  void event(const nlohmann::json& event) override;
  void progress(std::int64_t done, std::int64_t total, const std::string& what) override;

  /// Writes run.json; `facts` is merged into the earlier facts.
  void describe(const nlohmann::json& facts);
  /// Writes results.json, results.csv and report.html again.
  void write_results(const nlohmann::json& results);
  /// Writes the last results, then run.json with the last facts when all else is on disk.
  void finish(const nlohmann::json& facts, const nlohmann::json& results);
  /// Writes models/ROW.safetensors and artifacts/ROW.safetensors.
  void keep_stage(const std::string& row, const Stage& stage);
  /// Writes models/ROW.attack.safetensors: what the attack has learned and poisoned.
  void keep_attack(const std::string& row, const Stage& stage);
  /// triggers/NAME.png.
  void write_trigger(const std::string& name, const std::string& title, const at::Tensor& clean,
                     const at::Tensor& triggered);
  /// predictions.csv: label and predictions (int64 [n]) of each test image, a column for each row.
  void write_predictions(const at::Tensor& labels, const NamedTensors& predictions);
  /// pictures/ROW.png.
  void write_picture(const std::string& row, const std::vector<SheetRow>& rows);

  /// What an interrupted run keeps, and what of it is to be done again.
  [[nodiscard]] std::string after_interrupt() const;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  base::FileLock lock_;
  RunObserver* next_;
  std::string recipe_;
  nlohmann::json facts_ = nlohmann::json::object();
  std::optional<base::LineFile> metrics_, log_;
  nlohmann::json epoch_;  ///< the last event of a training that has not ended; or null
  nlohmann::json kept_;   ///< the last checkpoint of its stage; or null
};

/// Says in run.json of every run below `out` whose process died that it was killed, and removes the
/// files that it was writing.
void close_dead_runs(const std::filesystem::path& out);

/// "2026-11-21T10:04:11Z".
std::string utc_now();

}  // namespace backstop::engine
