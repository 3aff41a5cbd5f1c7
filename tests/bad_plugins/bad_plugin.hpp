// What the bad plugins are made of: notes with any facts and any manifest, and a good scheduler to
// go wrong from.
#pragma once

#include <cstddef>  // defines _GLIBCXX_USE_CXX11_ABI

#include "backstop/build_facts.hpp"
#include "backstop/plugin.hpp"
#include "backstop/scheduler.hpp"

// The string literals in `text` become string literals of the assembler: see backstop/note.hpp.
#define BAD_PLUGIN_NOTE(type, text) \
  asm(".pushsection .note.backstop,\"a\",@note\n" \
      ".balign 4\n"                               \
      ".long 9, 2f - 1f, " #type "\n"             \
      ".asciz \"BACKSTOP\"\n"                     \
      ".balign 4\n"                               \
      "1: .ascii " BACKSTOP_TEXT(text) "\n"       \
      "2: .balign 4\n"                            \
      ".popsection\n")

#define BAD_PLUGIN_FACTS(abi, torch, cxx11_abi, sanitizer) \
  "abi = \"" abi "\"\n"                                    \
  "torch = \"" torch "\"\n"                                \
  "cxx11_abi = " BACKSTOP_TEXT(cxx11_abi) "\n"             \
  "glibcxx_debug = " BACKSTOP_GLIBCXX_DEBUG "\n"           \
  "sanitizer = \"" sanitizer "\"\n"                        \
  "compiler = \"" __VERSION__ "\"\n"

#define BAD_PLUGIN_OWN_ABI \
  BACKSTOP_TEXT(BACKSTOP_ABI_MAJOR) "." BACKSTOP_TEXT(BACKSTOP_TARGET_ABI_MINOR)

#define BAD_PLUGIN_MANIFEST(name)                        \
  "name = \"" name                                       \
  "\"\n"                                                 \
  "kind = \"scheduler\"\n"                               \
  "version = \"1.0.0\"\n"                                \
  "summary = \"Goes wrong on purpose, for the tests\"\n" \
  "license = \"Apache-2.0\"\n"

#define BAD_PLUGIN_GOOD_NOTES(name)         \
  BAD_PLUGIN_NOTE(1, BACKSTOP_BUILD_FACTS); \
  BAD_PLUGIN_NOTE(2, BAD_PLUGIN_MANIFEST(name))

class GoodScheduler final : public backstop::Scheduler {
 public:
  explicit GoodScheduler(const backstop::Params&) {}
  double rate(const backstop::TrainingPosition&) const override { return 0.1; }
};
