// The folders that are searched for plugins, and where each of them comes from.
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
/// "from --plugin-path": for people.
std::string_view description(Origin origin);

struct PluginFolder {
  catalog::SearchPath path;  ///< symbolic links are resolved if the folder exists
  Origin origin = Origin::installation;
};

/// Catalog::search_path(), and where each folder comes from. Throws what search_path() throws.
std::vector<PluginFolder> plugin_folders(const std::vector<std::string>& from_command_line);

/// The first folder in which Catalog::scan() finds the file.
std::optional<std::size_t> folder_of(const std::filesystem::path& file,
                                     const std::vector<PluginFolder>& folders);

}  // namespace backstop::cli
