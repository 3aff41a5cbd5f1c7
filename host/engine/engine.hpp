// The door between the command-line program, which does not know LibTorch, and the engine, a shared
// library that is loaded when something is to be run.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/catalog/catalog.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::engine {

/// Hears what happens during a run. Called from one thread.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  /// One JSON object with a string "event":
  ///   run_started     run (the folder of the run), seed
  ///   stage_started   stage ("data", "attack", "model", "detector" or "defense"), name (of its row),
  ///                   reused
  ///   epoch           stage, name, epoch, epochs, loss, clean_accuracy, attack_success_rate,
  ///                   attack_success_rate_all, robust_accuracy, learning_rate ({epoch, rate}: lists,
  ///                   since the event before); epoch 0 is before training and has no loss or rate
  ///   stage_finished  stage, name, wall_seconds, reused
  ///   log             level ("debug", "info" or "warning"), stage, name, message
  ///   stage_failed    stage, name, code (an exit status), error, hint; the run goes on
  ///   run_failed      run, error, hint
  ///   run_finished    run, results (the content of results.json)
  virtual void event(const nlohmann::json& event) = 0;
  /// `done` of `total` units of `what` in the current stage; many times a second at most.
  virtual void progress(std::int64_t done, std::int64_t total, const std::string& what) = 0;
};

/// A defended model, as a file like the recipe's `model.file`.
struct ModelOutput {
  std::string row;  ///< the defense
  std::filesystem::path file;
};

/// A stage that must not be run: it failed in an earlier process, or ended it.
struct FailedStage {
  std::string stage, name;  ///< those of its events
  base::ExitCode code = base::ExitCode::plugin;
  std::string error, hint;
};

/// What a process that a plugin has ended had done of the same run.
struct EarlierProcess {
  std::filesystem::path run;  ///< its folder below `out`, in which it goes on
  std::vector<std::pair<std::string, std::string>> finished;  ///< its stages: stage, name
  std::vector<FailedStage> failed;                            ///< others of its stages
};

struct RunRequest {
  const recipe::Recipe* recipe = nullptr;
  bool one_of_several = false;  ///< of a matrix, whose summary counts failed rows, too
  std::optional<EarlierProcess> earlier;
  std::optional<ModelOutput> output;
  std::filesystem::path out = "runs";
  bool fresh = false;                             ///< ignore cached stages and retrain
  const std::atomic<int>* interrupted = nullptr;  ///< a signal's number, or 0
  std::atomic<std::uint64_t>* pulse = nullptr;    ///< changes as long as the work goes on
  RunObserver* observer = nullptr;
};

/// How a call of the engine ended.
struct Outcome {
  base::ExitCode code = base::ExitCode::done;
  std::string error;  ///< empty when nothing went wrong
  std::string hint;
};

struct RunOutcome : Outcome {
  std::filesystem::path run;  ///< its folder, finished or not; empty if it could not begin
};

/// A training image to be written as a PNG file, one pixel each.
struct ImageRequest {
  std::int64_t label = 0, number = 0;  ///< the `number`th image of class `label`, from 0
  std::filesystem::path file;
};

struct DataRequest {
  const recipe::PluginUse* dataset = nullptr;
  std::filesystem::path sheet;  ///< where the contact sheet goes; empty: none
  std::vector<ImageRequest> images;
  const std::atomic<int>* interrupted = nullptr;  ///< a signal's number, or 0
  RunObserver* observer = nullptr;
};

struct DataOutcome : Outcome {
  /// {schema, plugin, version, ok, fingerprint, classes: [name], stated: {mean: [],
  /// deviation: []}, splits: [{split, status: "ok" | "absent" | "failed", error, hint, images,
  /// channels, height, width, per_class: [count], mean, deviation, files: [{path, md5, published,
  /// status: "matches" | "differs" | "unknown" | "unreadable"}]}], problems: [{message, hint}],
  /// sheet, images: [file]}; null where there is nothing to say.
  nlohmann::json report;
};

struct ModelDescription : Outcome {
  nlohmann::json facts;  ///< see describe_model() in host/engine/store/opened_model.hpp
};

/// What only the engine can say of the machine and of LibTorch: `backstop doctor` shows it.
struct EngineDescription {
  std::string error;           ///< not empty: LibTorch failed, and the rest may be missing
  std::string built_for;       ///< version of the headers that the engine was built with: "1.13.0"
  std::string running;         ///< version that the loaded LibTorch says it has
  std::filesystem::path file;  ///< libtorch_cpu.so, links followed
  std::string capability;      ///< vector instructions that LibTorch's kernels use: "AVX512"
  std::string blas;  ///< what the BLAS says of itself: "OpenBLAS 0.3.21 ..."; may be empty
  std::filesystem::path blas_file;    ///< links followed; empty where it is part of LibTorch
  bool reference_blas = false;        ///< netlib's, many times slower than the others
  std::filesystem::path openmp_file;  ///< the OpenMP run-time, links followed
  std::string processor;
  int threads = 0;                  ///< what `compute.threads = 0` gives
  std::string bfloat16;             ///< what computes it natively: "AMX", "the GPU"; or empty
  std::int64_t bfloat16_width = 0;  ///< narrower models stay in float32
  std::string device;               ///< what `compute.device = "auto"` gives
  bool cuda = false;                ///< LibTorch was built with CUDA
  int cuda_devices = 0;
};

/// The engine's exported functions. They never throw. void(const RunRequest&, RunOutcome&):
inline constexpr const char* kEngineRun = "backstop_engine_run";
/// void(const std::filesystem::path&, ModelDescription&):
inline constexpr const char* kEngineDescribeModel = "backstop_engine_describe_model";
/// void(EngineDescription&):
inline constexpr const char* kEngineDescribe = "backstop_engine_describe";
/// void(const DataRequest&, DataOutcome&):
inline constexpr const char* kEngineData = "backstop_engine_data";
/// const char*(): what is being called of which plugin ("defense `probe` in run"), or null.
inline constexpr const char* kEnginePluginCall = "backstop_engine_plugin_call";

/// One test of `backstop plugin check`, in the process that asks for it.
struct ConformanceRequest {
  std::string test;  ///< see host/engine/conformance.hpp
  const catalog::PluginEntry* plugin = nullptr;
  /// Each uses the plugin: the first with the parameters to test it with, the others with one
  /// parameter at an end of its range.
  const std::vector<recipe::Recipe>* recipes = nullptr;
};

struct ConformanceOutcome {
  bool passed = false;
  std::string message;  ///< what was found, a line each
  std::string hint;
  bool checked = true;  ///< false: the plugin refuses its parameters, so there is nothing to test
};

/// void(const ConformanceRequest&, ConformanceOutcome&):
inline constexpr const char* kEngineCheckPlugin = "backstop_engine_check_plugin";

inline constexpr const char* kEngineLibrary = "libbackstop_engine.so";

}  // namespace backstop::engine
