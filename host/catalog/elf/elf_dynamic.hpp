// What the dynamic linker reads and writes when it loads a library, before the library's own code
// runs. It trusts the file: an address that points nowhere kills the process, instead of failing.
#pragma once

#include "host/catalog/elf/elf_file.hpp"

namespace backstop::catalog {

/// Throws HostError(plugin) "file is damaged" unless the tables that the dynamic linker follows lie
/// in segments that are loaded, and what they hold points into those. Loading a file that passes
/// can still fail, and with an error; it crashes only where the library's own code does.
void check_dynamic_section(const ElfFile& file);

}  // namespace backstop::catalog
