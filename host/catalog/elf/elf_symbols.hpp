// What a library exports and needs, read without mapping or running it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace backstop::catalog {

/// The names that others can link to, sorted: defined, global or weak, and not hidden. Throws
/// HostError(plugin) like read_notes().
std::vector<std::string> exported_symbols(const std::filesystem::path& file);

/// The libraries that the dynamic linker loads with it (DT_NEEDED), in its order: "libc.so.6".
/// Throws HostError(plugin) like read_notes().
std::vector<std::string> needed_libraries(const std::filesystem::path& file);

}  // namespace backstop::catalog
