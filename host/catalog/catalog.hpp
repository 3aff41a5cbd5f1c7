// Finds plugins and reads what they say of themselves, without mapping or running their code.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/catalog/manifest.hpp"

namespace backstop::host {

/// Why a file is not usable; the sentence that the user sees.
struct Refusal {
  std::string message;
  std::string hint;
};

struct PluginEntry {
  std::filesystem::path path;  ///< absolute
  Manifest manifest;           ///< empty name and file's stem as name where it could not be read
  std::optional<BuildFacts> facts;
  std::optional<Refusal> refusal;  ///< set: cannot be used
  bool built_in = false;           ///< from the installation's own folder
  bool shadowed = false;           ///< an earlier folder holds a plugin of this kind and name
};

struct SearchPath {
  std::filesystem::path folder;
  bool built_in = false;
};

class Catalog {
 public:
  /// `--plugin-path` in the order given, BACKSTOP_PLUGIN_PATH, the user's data folder, the installation
  /// (<folder of the program>/../lib/backstop/plugins). Throws HostError(usage) for a relative or empty
  /// element, HostError(environment) for a `--plugin-path` that is no folder.
  static std::vector<SearchPath> search_path(const std::vector<std::string>& from_command_line);

  /// Looks at every *.so in the folders and in their `attacks`, `defenses`, `schedulers`, `datasets`.
  /// A bad file becomes an entry with a refusal, never an error.
  static Catalog scan(const std::vector<SearchPath>& folders);

  [[nodiscard]] const std::vector<PluginEntry>& entries() const { return entries_; }
  /// The usable plugin of that kind and name; null when there is none. Shadowed ones are skipped.
  [[nodiscard]] const PluginEntry* find(Kind kind, std::string_view name) const;
  /// The same, or HostError(plugin) with the nearest name, or with the refusal of one that has it.
  [[nodiscard]] const PluginEntry& require(Kind kind, std::string_view name) const;
  /// Names of the usable plugins of a kind, sorted.
  [[nodiscard]] std::vector<std::string> names(Kind kind) const;

 private:
  std::vector<PluginEntry> entries_;
};

/// The element of `candidates` that `word` was probably meant to be (edit distance at most 2, or a
/// third of its length), if any.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates);

/// Lower-case hexadecimal SHA-256 of a file. Throws HostError(environment).
std::string sha256_of_file(const std::filesystem::path& path);
std::string sha256_of_text(std::string_view text);

}  // namespace backstop::host
