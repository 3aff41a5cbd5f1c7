// Reads the folders of finished runs, which may come from other machines, be damaged, or be made up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// Parameters by their path in a recipe: "attack.training.epochs" -> "100". Strings have no quotes.
using Parameters = std::map<std::string, std::string>;

struct StoredRun {
  std::string folder;           ///< as it was found
  nlohmann::json results = {};  ///< results.json; its keys have the types they should
  std::int64_t seed = 0;
  Parameters recipe = {};                           ///< but for the defenses and detectors
  std::map<std::string, Parameters> defenses = {};  ///< by their rows
  std::string machine = {};  ///< "backstop 0.1.0, AMD EPYC, cpu, 2 threads"; empty if unknown
};

/// A folder that a report does not count, and why: "interrupted", "results.json is not valid JSON".
struct FolderNote {
  std::string folder, reason;
};

struct FoundRuns {
  std::vector<StoredRun> runs;
  std::vector<FolderNote> omitted;   ///< unfinished, or not readable
  std::vector<FolderNote> repeated;  ///< the same recipe and the same results as another
  std::vector<FolderNote> doubtful;  ///< counted; they failed, or nobody knows whether they ended
};

inline constexpr int kDeepestRun = 5;
/// The runs in `folders`, each of which is a run's folder or holds some, at most kDeepestRun folders
/// down. Links to folders are followed only where they are named. In the order of their paths.
/// One that cannot be read is omitted. Throws HostError(usage) where there is no such folder.
FoundRuns find_runs(const std::vector<std::filesystem::path>& folders);

}  // namespace backstop::report
