// What `backstop doctor` finds out about this host, its engine, its plugins and the machine, and
// what is wrong with any of it. Nothing here is text for people but the problems.
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
  std::optional<engine::EngineDescription> description;  ///< set: it loads
  std::string error, hint;                               ///< why it does not
};

struct MachineHealth {
  int cores = 0;                                   ///< that this process may use
  int cores_online = 0;                            ///< that the machine has
  std::optional<double> core_quota;                ///< the control group's, in cores
  std::vector<std::string> gpus;                   ///< NVIDIA's, as the driver calls them
  std::uint64_t memory = 0, memory_available = 0;  ///< bytes, the control group's limit applied
  std::filesystem::path folder;                    ///< the current one, where runs are written
  bool folder_writable = false;
  std::uint64_t disk_available = 0;  ///< bytes
};

struct FolderHealth {
  PluginFolder folder;
  bool exists = false;
  bool writable_by_everyone = false;
  std::optional<std::size_t> same_as;  ///< an earlier one of the list; then nothing follows
  std::size_t usable = 0;
  std::vector<catalog::PluginEntry> refused, shadowed;
};

/// Where a dataset plugin looks for its files unless a recipe says otherwise.
struct DatasetHealth {
  std::string plugin;
  std::filesystem::path path;
  bool there = false;
};

struct Problem {
  bool broken = false;  ///< nothing can be run; otherwise something is worse than it could be
  std::string message, hint;
};

struct Health {
  std::filesystem::path program;
  EngineHealth engine;
  MachineHealth machine;
  catalog::Catalog catalog;
  std::string folders_error, folders_hint;  ///< why there are no folders to look at
  std::vector<FolderHealth> folders;        ///< in the order in which they are searched
  std::vector<DatasetHealth> datasets;
  /// Variables that change what is found or how fast it runs, as they were set from outside.
  std::vector<std::pair<std::string, std::string>> environment;
};

/// Looks at everything. Loads the engine, but no plugin. Never throws for what it looks at.
Health examine(const std::vector<std::string>& plugin_path);

/// What is wrong, the worst first.
std::vector<Problem> problems_of(const Health& health);

}  // namespace backstop::cli
