// The facts about a build that decide whether a plugin fits a host. The same text goes into every
// plugin's first ELF note and into the host, which compares the two before it runs any of the
// plugin's code. It is TOML, so that whatever reads the manifest can read it.
#pragma once

#include <torch/version.h>

#include "backstop/abi.h"

#define BACKSTOP_TEXT_(x) #x
#define BACKSTOP_TEXT(x) BACKSTOP_TEXT_(x)

#if defined(__SANITIZE_ADDRESS__)
#define BACKSTOP_SANITIZER "address"
#elif defined(__SANITIZE_THREAD__)
#define BACKSTOP_SANITIZER "thread"
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BACKSTOP_SANITIZER "address"
#elif __has_feature(thread_sanitizer)
#define BACKSTOP_SANITIZER "thread"
#elif __has_feature(memory_sanitizer)
#define BACKSTOP_SANITIZER "memory"
#endif
#endif
#ifndef BACKSTOP_SANITIZER
#define BACKSTOP_SANITIZER "none"
#endif

#ifdef _GLIBCXX_DEBUG
#define BACKSTOP_GLIBCXX_DEBUG "true"
#else
#define BACKSTOP_GLIBCXX_DEBUG "false"
#endif

#define BACKSTOP_BUILD_FACTS \
  "abi = \"" BACKSTOP_TEXT(BACKSTOP_ABI_MAJOR) "." BACKSTOP_TEXT(BACKSTOP_TARGET_ABI_MINOR) "\"\n" \
  "sdk = \"" BACKSTOP_TEXT(BACKSTOP_ABI_MAJOR) "." BACKSTOP_TEXT(BACKSTOP_ABI_MINOR) "\"\n" \
  "torch = \"" TORCH_VERSION "\"\n"                                                      \
  "cxx11_abi = " BACKSTOP_TEXT(_GLIBCXX_USE_CXX11_ABI) "\n"                              \
  "glibcxx_debug = " BACKSTOP_GLIBCXX_DEBUG "\n"                                         \
  "sanitizer = \"" BACKSTOP_SANITIZER "\"\n"                                             \
  "compiler = \"" __VERSION__ "\"\n"
