// The checks of `backstop doctor`: the state of this host, its engine, its plugins and the machine,
// and the problems with any of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "host/catalog/catalog.hpp"
#include "host/cli/plugin_folders.hpp"
#include "host/engine/engine.hpp"

namespace backstop::cli {

struct EngineHealth {
  std::filesystem::path file;
  std::optional<engine::EngineDescription> description;  ///< set if the engine loads
  std::string error, hint;                               ///< otherwise, why it does not
};

struct MachineHealth {
  int cores = 0;                                   ///< that this process may use
  int cores_online = 0;                            ///< that the machine has
  std::optional<double> core_quota;                ///< the control group's, in cores
  std::vector<std::string> gpus;                   ///< NVIDIA GPUs, as the driver names them
  std::uint64_t memory = 0, memory_available = 0;  ///< bytes, within the control group's limit
  std::filesystem::path folder;                    ///< the current folder, where runs are written
  bool folder_writable = false;
  std::uint64_t disk_available = 0;  ///< bytes
};

struct FolderHealth {
  PluginFolder folder;
  bool exists = false;
  std::optional<catalog::Refusal> distrust;  ///< why no plugin in it is used
  std::optional<std::size_t> same_as;  ///< an earlier folder in the list; then the rest is empty
  std::size_t usable = 0;
  std::vector<catalog::PluginEntry> refused, shadowed;
};

/// Where a dataset plugin looks for its files by default.
struct DatasetHealth {
  std::string plugin;
  std::filesystem::path path;
  bool there = false;
};

struct Problem {
  bool broken = false;  ///< an error: recipes cannot be run; otherwise a warning
  std::string message, hint;
};

struct Health {
  std::filesystem::path program;
  EngineHealth engine;
  MachineHealth machine;
  catalog::Catalog catalog;
  std::string folders_error, folders_hint;  ///< why there are no folders to examine
  std::vector<FolderHealth> folders;        ///< in search order
  std::vector<DatasetHealth> datasets;
  /// Variables that change what is found or how fast it runs, as the caller set them.
  std::vector<std::pair<std::string, std::string>> environment;
};

/// Examines everything. Loads the engine, but no plugin. Whatever is wrong, it does not throw.
Health examine(const std::vector<std::string>& plugin_path);

/// What is wrong, errors first.
std::vector<Problem> problems_of(const Health& health);

}  // namespace backstop::cli
