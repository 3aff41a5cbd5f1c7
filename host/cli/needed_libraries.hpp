// The libraries that a file needs, and where the dynamic linker would find them; none is loaded.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace backstop::cli {

struct NeededLibrary {
  std::string name;             ///< "libgomp.so.1"
  std::filesystem::path found;  ///< empty if it was not found
};

/// The libraries in the DT_NEEDED entries of `file`, searched in LD_LIBRARY_PATH, the run paths of
/// `file` and of `loaded_before` (whose libraries will be loaded already), the linker's cache and
/// its default folders. Throws HostError(plugin) if `file` cannot be read; `loaded_before` need not
/// exist.
std::vector<NeededLibrary> find_needed_libraries(const std::filesystem::path& file,
                                                 const std::filesystem::path& loaded_before);

/// The names of those that were not found.
std::vector<std::string> missing(const std::vector<NeededLibrary>& libraries);

/// The paths of a library in `cache`, the content of /etc/ld.so.cache; none if that is not in the
/// format of glibc 2.32 and later.
std::vector<std::filesystem::path> cached_paths(std::string_view cache, std::string_view library);

}  // namespace backstop::cli
