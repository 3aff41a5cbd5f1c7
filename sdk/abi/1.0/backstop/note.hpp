// The two ELF notes of a plugin, in section .note.backstop, with owner BACKSTOP: type 1 holds the
// facts about the build, type 2 the manifest, both as TOML. Only the source file that
// backstop_add_plugin() generates includes this header; plugins do not.
#pragma once

#include <cstddef>  // defines _GLIBCXX_USE_CXX11_ABI

#include "backstop/build_facts.hpp"

// This is assembly because not every compiler can give a C++ object the section's type and its
// alignment of 4. BACKSTOP_TEXT turns the string literals of the facts into string literals of the
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
