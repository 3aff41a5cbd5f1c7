// What became of the runs below a folder, as their own folders tell it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/cli/slurm.hpp"
#include "host/cli/sweep.hpp"

namespace backstop::cli {

enum class RunState {
  finished,
  running,      ///< a process holds the lock of its folder
  waiting,      ///< has no folder yet, or waits to begin again
  failed,       ///< ended with an error
  interrupted,  ///< ended by a signal, in order
  killed,       ///< its process died
  unknown,      ///< unfinished, on a file system without locks
};
std::string_view to_string(RunState state);

struct RunView {
  RunState state = RunState::waiting;
  std::filesystem::path folder;  ///< empty: there is none
  std::string name;              ///< of the recipe
  std::string group;             ///< of a combination: what sets it apart, the seed aside
  std::int64_t seed = 0;
  std::string started;        ///< "2026-11-21T10:04:11Z"
  std::string recipe_sha256;  ///< of the resolved recipe
  std::string detail;         ///< an error, who runs it, where it is
  std::optional<TaskView> task;
};

/// The runs in `folder`, in the folders below it and in those below these, oldest first. What is
/// no run, or cannot be read, is left out.
std::vector<RunView> runs_below(const std::filesystem::path& folder);

/// Without those that another run of the same recipe has made obsolete: one that finished, else a
/// later one.
std::vector<RunView> current_runs(std::vector<RunView> runs);

/// For each combination its run since the sweep was made; one that waits if there is none.
/// `only`: that number alone, from 1; 0: all.
std::vector<RunView> runs_of(const Sweep& sweep, std::size_t only = 0);

struct SweepStates {
  std::vector<RunView> views;  ///< one for each combination
  bool slurm_answered = false;
};
/// The same with what Slurm knows of the tasks.
SweepStates states_of(const Sweep& sweep);

}  // namespace backstop::cli
