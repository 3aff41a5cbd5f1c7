// Reads a plugin's ELF notes (see backstop/note.hpp) without mapping or running its code. The file
// may be anything: half-copied, a directory, or malicious.
#pragma once

#include <filesystem>
#include <string>

namespace backstop::catalog {

struct PluginNotes {
  std::string build_facts;  ///< note type 1
  std::string manifest;     ///< note type 2
};

/// Throws HostError(plugin) that says what is wrong with the file, without naming it. A file that
/// passes is whole: every segment and section ends inside the file, and what the dynamic linker
/// follows stays inside the library (see elf_dynamic.hpp), so that loading it does not kill the
/// process.
PluginNotes read_notes(const std::filesystem::path& file);

}  // namespace backstop::catalog
