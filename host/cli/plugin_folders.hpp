// The folders that plugins are looked for in, each with who named it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/catalog/catalog.hpp"

namespace backstop::cli {

enum class Origin { command_line, environment, user, installation };
/// "command-line", "environment", "user", "installation": for JSON.
std::string_view to_string(Origin origin);
/// "given by --plugin-path": for people.
std::string_view sentence(Origin origin);

struct PluginFolder {
  catalog::SearchPath path;  ///< its folder with links followed, where it exists
  Origin origin = Origin::installation;
};

/// Catalog::search_path() with who named each. Throws like it.
std::vector<PluginFolder> plugin_folders(const std::vector<std::string>& from_command_line);

/// The first of the folders in which Catalog::scan() finds that file.
std::optional<std::size_t> folder_of(const std::filesystem::path& file,
                                     const std::vector<PluginFolder>& folders);

}  // namespace backstop::cli
