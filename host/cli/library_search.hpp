// Where the dynamic linker would find the libraries that a file needs, without loading any of them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace backstop::cli {

struct NeededLibrary {
  std::string name;             ///< "libgomp.so.1"
  std::filesystem::path found;  ///< empty: nowhere
};

/// The libraries in `file`'s DT_NEEDED, looked for in LD_LIBRARY_PATH, the run paths of `file` and
/// of `loaded_before` (what that one brings is there already), the linker's cache and its own
/// folders. Throws HostError(plugin) when `file` cannot be read; `loaded_before` need not exist.
std::vector<NeededLibrary> find_needed_libraries(const std::filesystem::path& file,
                                                 const std::filesystem::path& loaded_before);

/// The names of those that were not found.
std::vector<std::string> missing(const std::vector<NeededLibrary>& libraries);

/// The paths that /etc/ld.so.cache, whose content is `cache`, has for a library; none when the
/// content is not what glibc 2.32 and later write.
std::vector<std::filesystem::path> cached_paths(std::string_view cache, std::string_view library);

}  // namespace backstop::cli
