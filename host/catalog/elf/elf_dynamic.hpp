// Checks what the dynamic linker reads and writes when it loads a library, before the library's own
// code runs. The linker trusts the file: an address that points nowhere kills the process.
#pragma once

#include "host/catalog/elf/elf_file.hpp"

namespace backstop::catalog {

/// Throws HostError(plugin) "file is damaged" unless the tables that the dynamic linker follows lie
/// in loaded segments and point into loaded segments. Loading a file that passes can still fail,
/// but with an error; it crashes only if the library's own code does.
void check_dynamic_section(const ElfFile& file);

}  // namespace backstop::catalog
