#include "host/cli/plugin_folders.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <system_error>

namespace backstop::cli {
namespace {

/// search_path() lists each element of BACKSTOP_PLUGIN_PATH before the user's folder.
std::size_t elements_of_environment() {
  const char* variable = ::secure_getenv("BACKSTOP_PLUGIN_PATH");
  const std::string_view elements = variable != nullptr ? variable : "";
  if (elements.empty()) return 0;
  return static_cast<std::size_t>(std::count(elements.begin(), elements.end(), ':')) + 1;
}

}  // namespace

std::string_view to_string(Origin origin) {
  static constexpr std::array<std::string_view, 4> kNames = {"command-line", "environment", "user",
                                                             "installation"};
  return kNames.at(static_cast<std::size_t>(origin));
}

std::string_view description(Origin origin) {
  static constexpr std::array<std::string_view, 4> kDescriptions = {
      "from --plugin-path", "from BACKSTOP_PLUGIN_PATH", "the user's folder", "built-in"};
  return kDescriptions.at(static_cast<std::size_t>(origin));
}

std::vector<PluginFolder> plugin_folders(const std::vector<std::string>& from_command_line) {
  std::vector<PluginFolder> folders;
  std::size_t left = elements_of_environment();
  for (catalog::SearchPath& path : catalog::Catalog::search_path(from_command_line)) {
    Origin origin = Origin::user;
    if (path.given) {
      origin = Origin::command_line;
    } else if (path.built_in) {
      origin = Origin::installation;
    } else if (left > 0) {
      origin = Origin::environment;
      --left;
    }
    std::error_code error;
    const auto real = std::filesystem::canonical(path.folder, error);
    path.named = path.folder;
    if (!error) path.folder = real;
    folders.push_back({std::move(path), origin});
  }
  return folders;
}

std::optional<std::size_t> folder_of(const std::filesystem::path& file,
                                     const std::vector<PluginFolder>& folders) {
  const auto holds = [&file](const PluginFolder& candidate) {
    const auto& folder = candidate.path.folder;
    const auto parent = file.parent_path();
    if (file == folder || parent == folder) return true;
    return parent.parent_path() == folder &&
           std::any_of(std::begin(catalog::kKinds), std::end(catalog::kKinds),
                       [&parent](catalog::Kind kind) {
                         return parent.filename() == std::string(to_string(kind)) + "s";
                       });
  };
  const auto found = std::find_if(folders.begin(), folders.end(), holds);
  if (found == folders.end()) return std::nullopt;
  return static_cast<std::size_t>(found - folders.begin());
}

}  // namespace backstop::cli
