#include "host/cli/run_states.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/hash.hpp"
#include "host/base/lock_state.hpp"
#include "host/base/text.hpp"

namespace backstop::cli {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// Those of host/engine/store/run_directory.cpp.
constexpr const char* kLockFile = ".backstop.lock";
constexpr const char* kFactsFile = "run.json";
constexpr std::uintmax_t kMostBytes = std::uintmax_t{16} << 20;

/// The last whole line that a run has written about an epoch: "attack badnets, epoch 3 of 100".
std::string last_epoch(const fs::path& run) {
  constexpr std::streamoff kEnd = 4096;
  std::error_code error;
  if (!fs::is_regular_file(run / "metrics.jsonl", error)) return {};
  std::ifstream stream(run / "metrics.jsonl", std::ios::binary | std::ios::ate);
  const std::streamoff size = stream.tellg();
  stream.seekg(std::max<std::streamoff>(0, size - kEnd));
  std::string line, epoch;
  while (std::getline(stream, line) && !stream.eof()) epoch = line;
  const json event = json::parse(epoch, nullptr, false);
  if (!event.is_object()) return {};
  try {
    return fmt::format("{} {}, epoch {} of {}", event.at("stage").get<std::string>(),
                       event.at("name").get<std::string>(), event.at("epoch").get<std::int64_t>(),
                       event.at("epochs").get<std::int64_t>());
  } catch (const json::exception&) {
    return {};
  }
}

RunState state_of(const std::string& status, base::LockState lock) {
  if (status == "finished") return RunState::finished;
  if (status == "failed") return RunState::failed;
  if (status == "interrupted") return RunState::interrupted;
  if (status == "killed") return RunState::killed;
  if (lock == base::LockState::held) return RunState::running;
  return lock == base::LockState::free ? RunState::killed : RunState::unknown;
}

std::string detail_of(RunState state, const fs::path& run, const json& facts) {
  if (state == RunState::failed) return facts.value("error", "");
  const std::string epoch = last_epoch(run);
  if (state != RunState::running) return state == RunState::finished ? "" : epoch;
  return base::lock_holder(run / kLockFile) + (epoch.empty() ? "" : ": " + epoch);
}

std::optional<RunView> run_in(const fs::path& folder) try {
  std::error_code error;
  // Before the facts: a run that ends meanwhile has then said how.
  const auto lock = base::lock_state(folder / kLockFile);
  json facts = json::object();
  if (fs::is_regular_file(folder / kFactsFile, error))
    facts = json::parse(base::read_file(folder / kFactsFile, kMostBytes));
  else if (lock != base::LockState::held)
    return std::nullopt;
  RunView run;
  run.folder = folder;
  run.state = state_of(facts.value("status", "unfinished"), lock);
  run.name = folder.parent_path().filename().string();
  run.seed = facts.value("seed", std::int64_t{0});
  run.started = facts.value("started", "");
  run.recipe_sha256 = facts.value("recipe_sha256", "");
  run.detail = detail_of(run.state, folder, facts);
  return run;
} catch (const base::HostError&) {  // it cannot be read
  return std::nullopt;
} catch (const json::exception&) {  // another program's file of this name
  return std::nullopt;
}

std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.is_directory(error) && !entry.is_symlink(error) &&
        !entry.path().filename().string().starts_with('.'))
      folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  return folders;
}

/// The SHA-256 of the run's recipe with an open number of threads, which was that of its job.
std::string with_open_threads(const fs::path& run) try {
  std::string text = base::read_file(run / "recipe.toml", kMostBytes);
  const auto section = text.find("\n[compute]\n");
  const auto line = section == std::string::npos ? section : text.find("\nthreads = ", section);
  if (line == std::string::npos) return {};
  text.replace(line, text.find('\n', line + 1) - line, "\nthreads = 0");
  return base::sha256_of_text(text);
} catch (const base::HostError&) {
  return {};
}

/// Whether `run` says more about what becomes of its recipe than `other`, which is older.
bool supersedes(const RunView& run, const RunView& other) {
  return other.state != RunState::finished || run.state == RunState::finished;
}

}  // namespace

std::string_view to_string(RunState state) {
  constexpr std::string_view kNames[] = {"finished",    "running", "waiting", "failed",
                                         "interrupted", "killed",  "unknown"};
  return kNames[static_cast<std::size_t>(state)];
}

std::vector<RunView> runs_below(const fs::path& folder) {
  if (auto run = run_in(folder)) return {std::move(*run)};
  std::vector<RunView> runs;
  for (const fs::path& child : folders_in(folder)) {
    if (auto run = run_in(child)) {
      runs.push_back(std::move(*run));
      continue;
    }
    for (const fs::path& grandchild : folders_in(child))
      if (auto run = run_in(grandchild)) runs.push_back(std::move(*run));
  }
  return runs;
}

std::vector<RunView> current_runs(std::vector<RunView> runs) {
  std::map<std::pair<std::string, std::string>, std::size_t> last;  // by name and recipe
  std::vector<bool> obsolete(runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].recipe_sha256.empty()) continue;
    const auto [before, is_new] =
        last.try_emplace(std::pair(runs[i].name, runs[i].recipe_sha256), i);
    if (is_new) continue;
    const bool newer = supersedes(runs[i], runs[before->second]);
    obsolete[newer ? before->second : i] = true;
    if (newer) before->second = i;
  }
  std::vector<RunView> current;
  for (std::size_t i = 0; i < runs.size(); ++i)
    if (!obsolete[i]) current.push_back(std::move(runs[i]));
  return current;
}

std::vector<RunView> runs_of(const Sweep& sweep, std::size_t only) {
  std::vector<RunView> views;
  std::multimap<std::string, std::size_t> all, open;  // by SHA-256 of the recipe
  std::set<std::string> names;
  for (std::size_t i = 0; i < sweep.combinations.size(); ++i) {
    const Combination& combination = sweep.combinations[i];
    RunView& view = views.emplace_back();
    view.name = combination.name;
    view.group = combination.group;
    view.seed = combination.seed;
    if (only != 0 && only != i + 1) continue;
    names.insert(combination.name);
    all.emplace(combination.recipe_sha256, i);
    if (!combination.pins_threads) open.emplace(combination.recipe_sha256, i);
  }
  for (const std::string& name : names)
    for (RunView& run : runs_below(sweep.out / name)) {
      if (run.started < sweep.created) continue;
      auto [found, end] = all.equal_range(run.recipe_sha256);
      if (found == end) std::tie(found, end) = open.equal_range(with_open_threads(run.folder));
      for (; found != end; ++found) {
        RunView& view = views[found->second];
        if (!view.folder.empty() && !supersedes(run, view)) continue;
        run.group = view.group;
        run.seed = view.seed;
        view = run;
      }
    }
  return views;
}

namespace {

/// What the task's state in Slurm adds to what the run's folder says.
void add_task(RunView& view, const TaskView& task) {
  view.task = task;
  if (view.state == RunState::finished || view.state == RunState::running) return;
  constexpr std::array<std::string_view, 6> kWaiting = {
      "PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD"};
  constexpr std::array<std::string_view, 5> kRunning = {"RUNNING", "CONFIGURING", "COMPLETING",
                                                        "SIGNALING", "STAGE_OUT"};
  const auto is_one_of = [&](const auto& states) {
    return std::find(states.begin(), states.end(), task.state) != states.end();
  };
  const std::string in_slurm = fmt::format("job {}: {}{}", task.job, task.state,
                                           task.reason.empty() ? "" : " (" + task.reason + ")");
  if (is_one_of(kWaiting))
    view.state = RunState::waiting;
  else if (is_one_of(kRunning))
    view.state = RunState::running;
  else if (view.state == RunState::waiting)  // there is no run
    view.state = task.state == "COMPLETED" ? RunState::finished : RunState::failed;
  view.detail += (view.detail.empty() ? "" : "; ") + in_slurm;
}

}  // namespace

SweepStates states_of(const Sweep& sweep) {
  SweepStates states{runs_of(sweep), false};
  const auto tasks = tasks_in_slurm(sweep.jobs, states.slurm_answered);
  if (!states.slurm_answered) return states;
  for (std::size_t i = 0; i < states.views.size(); ++i) {
    RunView& view = states.views[i];
    if (const auto task = tasks.find(i + 1); task != tasks.end()) {
      add_task(view, task->second);
    } else if (view.state == RunState::waiting) {
      view.state = RunState::failed;
      view.detail = "ended before its run began; see the sweep's folder `logs`";
    }
  }
  return states;
}

}  // namespace backstop::cli
