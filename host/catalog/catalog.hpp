// Finds plugins and reads what they say about themselves, without mapping or running their code.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/catalog/build_facts.hpp"
#include "host/catalog/manifest.hpp"

namespace backstop::catalog {

/// Why a file cannot be used, as the user reads it.
struct Refusal {
  std::string message;
  std::string hint;
};

struct PluginEntry {
  std::filesystem::path path;  ///< absolute
  /// When it could not be read, it has only the file's stem as its name and the folder's kind, if
  /// there is one. A manifest that was read has a version.
  Manifest manifest;
  std::optional<BuildFacts> facts;
  std::optional<Refusal> refusal;  ///< set: cannot be used
  bool built_in = false;           ///< from the installation's own folder
  bool given = false;              ///< from a folder that `--plugin-path` names
  /// An earlier folder holds a plugin of this kind and name; it can be used, or its folder was
  /// given by `--plugin-path`: whoever asks for it must hear why it cannot.
  bool shadowed = false;
};

struct SearchPath {
  std::filesystem::path folder;
  bool built_in = false;
  bool given = false;  ///< by `--plugin-path`: whoever runs the command vouches for it
  /// The folder before links were followed; empty: they have not been followed yet.
  std::filesystem::path named = {};
};

/// Why `file`, in that folder of the search path, cannot be trusted, if it cannot: it or a folder on
/// the way to it, links followed, is writable by everyone, so that anybody could have put a file of
/// their own there. A sticky folder like /tmp counts only where what is used of it belongs to
/// neither this user nor root. A folder that was given by `--plugin-path` is trusted.
std::optional<Refusal> distrust(const SearchPath& path, const std::filesystem::path& file);

/// Why a plugin with these facts cannot run in a host with those, if it cannot.
std::optional<Refusal> incompatibility(const BuildFacts& plugin, const BuildFacts& host);

class Catalog {
 public:
  Catalog() = default;
  /// Holds the given entries, for tests.
  explicit Catalog(std::vector<PluginEntry> entries) : entries_(std::move(entries)) {}

  /// `--plugin-path` in the order given, BACKSTOP_PLUGIN_PATH (colon-separated), the user's data
  /// folder, the installation (<folder of the program>/../lib/backstop/plugins).
  /// BACKSTOP_PLUGIN_PATH set to nothing leaves out the user's data folder. Throws HostError(usage)
  /// for an empty element and for a relative one in the environment, HostError(environment) for a
  /// `--plugin-path` that is not a directory.
  static std::vector<SearchPath> search_path(const std::vector<std::string>& from_command_line);

  /// Reads every *.so in the folders and in their subfolders `attacks`, `defenses`, `schedulers`
  /// and `datasets`. A bad file becomes an entry with a refusal, never an error; so does a folder
  /// that cannot be listed. Folders that do not exist are skipped.
  static Catalog scan(const std::vector<SearchPath>& folders);

  /// What scan() would read from one file, wherever it is, trusting whoever named it.
  static PluginEntry of_file(const std::filesystem::path& path);

  [[nodiscard]] const std::vector<PluginEntry>& entries() const { return entries_; }
  /// The usable plugin of that kind and name; null when there is none. Shadowed ones are skipped.
  [[nodiscard]] const PluginEntry* find(Kind kind, std::string_view name) const;
  /// The same, but throws HostError(plugin) with the nearest name, or with the reason why the
  /// plugin of that name is refused.
  [[nodiscard]] const PluginEntry& require(Kind kind, std::string_view name) const;
  /// What to do about a name that no plugin of that kind has: the nearest name, a
  /// `--plugin-path` without plugins, or `otherwise`.
  [[nodiscard]] std::string hint_for_unknown(Kind kind, std::string_view name,
                                             const std::string& otherwise) const;
  /// The next plugin of the same kind and name, which is not used because `entry` is; null when
  /// there is none.
  [[nodiscard]] const PluginEntry* shadowed_by(const PluginEntry& entry) const;
  /// Names of the usable plugins of a kind, sorted.
  [[nodiscard]] std::vector<std::string> names(Kind kind) const;

 private:
  std::vector<PluginEntry> entries_;
  std::vector<std::filesystem::path> without_plugins_;  ///< folders that `--plugin-path` names
};

}  // namespace backstop::catalog
