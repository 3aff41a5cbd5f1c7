// The two ELF notes of a plugin, in section .note.backstop, owner BACKSTOP: type 1 holds the
// build's facts, type 2 the manifest; both are TOML. backstop_add_plugin() generates the one source
// file that includes this header and says where the manifest lies; plugins never do.
#pragma once

#include <cstddef>  // defines _GLIBCXX_USE_CXX11_ABI

#include "backstop/build_facts.hpp"

// Assembly, because a C++ object can get neither the section's type nor its alignment of 4 right on
// every compiler. BACKSTOP_TEXT turns the facts' string literals into string literals of the
// assembler, which joins them as the compiler would.
// NOLINTNEXTLINE(cppcoreguidelines-macro-usage)
#define BACKSTOP_NOTES(manifest_file) \
  asm(".pushsection .note.backstop,\"a\",@note\n"  \
      ".balign 4\n"                                \
      ".long 9, 2f - 1f, 1\n"                      \
      ".asciz \"BACKSTOP\"\n"                      \
      ".balign 4\n"                                \
      "1: .ascii " BACKSTOP_TEXT(BACKSTOP_BUILD_FACTS) "\n" \
      "2: .balign 4\n"                             \
      ".long 9, 4f - 3f, 2\n"                      \
      ".asciz \"BACKSTOP\"\n"                      \
      ".balign 4\n"                                \
      "3: .incbin \"" manifest_file "\"\n"         \
      "4: .balign 4\n"                             \
      ".popsection\n")
