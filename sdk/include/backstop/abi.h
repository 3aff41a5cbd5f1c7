/* The binary contract between a plugin and the host: the part that is plain C.
 *
 * A plugin exports one function, backstop_plugin_v1, and nothing else. The host calls it after
 * reading the plugin's ELF notes (see note.hpp) and checking that the two builds fit each other.
 * Everything behind `create` is C++ (see attack.hpp, defense.hpp, scheduler.hpp, dataset.hpp) and
 * requires that both have the same LibTorch major.minor version and the same libstdc++ ABI.
 *
 * This header compiles as C11 and as C++20. Structures grow only at their end: check struct_size
 * before reading a field that was added later. */
#ifndef BACKSTOP_ABI_H
#define BACKSTOP_ABI_H

#include <stdint.h>

/* A host loads every plugin of its own major version that asks for a minor version not larger than
 * the host's. */
#define BACKSTOP_ABI_MAJOR 1
#define BACKSTOP_ABI_MINOR 1

/* The oldest host that a plugin runs on: 1.BACKSTOP_TARGET_ABI_MINOR. What later minors added is
 * hidden from a plugin that does not ask for it, so it runs on every 1.x by default. Define it
 * before including any header of the SDK, for the whole plugin: backstop_add_plugin(...
 * TARGET_ABI_MINOR 2). */
#ifndef BACKSTOP_TARGET_ABI_MINOR
#define BACKSTOP_TARGET_ABI_MINOR 0
#endif
#if BACKSTOP_TARGET_ABI_MINOR > BACKSTOP_ABI_MINOR
#error "BACKSTOP_TARGET_ABI_MINOR is newer than this SDK; use a newer SDK, or a smaller number"
#endif

#define BACKSTOP_PLUGIN_MAGIC 0x504B4342u /* "BCKP" in memory */

#ifdef __cplusplus
extern "C" {
#endif

enum {
  BACKSTOP_KIND_ATTACK = 1,
  BACKSTOP_KIND_DEFENSE = 2,
  BACKSTOP_KIND_SCHEDULER = 3,
  BACKSTOP_KIND_DATASET = 4
};

/* Values of backstop_error.code. */
enum {
  BACKSTOP_OK = 0,
  BACKSTOP_ERROR_PLUGIN = 1,      /* a bug in the plugin, or an unexpected exception */
  BACKSTOP_ERROR_PARAMETER = 2,   /* the recipe asks for something impossible */
  BACKSTOP_ERROR_ENVIRONMENT = 3, /* data missing or damaged, disk full, no permission */
  BACKSTOP_ERROR_CANCELLED = 4
};

/* Filled in by the plugin and owned by the caller, so that no allocation crosses the boundary when
 * a call fails. Both texts are UTF-8 and end with a zero byte. */
typedef struct backstop_error {
  uint32_t struct_size;
  int32_t code;
  char message[1024];
  char hint[512];
} backstop_error;

typedef struct backstop_plugin_descriptor {
  uint32_t struct_size;
  uint32_t magic; /* BACKSTOP_PLUGIN_MAGIC */
  uint16_t abi_major;
  uint16_t abi_minor;
  uint32_t kind; /* BACKSTOP_KIND_* */
  /* Creates the plugin's object. `params` is a `const backstop::Params*` that outlives the object.
   * On success, stores a pointer to the interface of the plugin's kind (`backstop::Attack*` for an
   * attack) in *object and returns BACKSTOP_OK; on failure, fills *error and returns its code.
   * Never throws. */
  int32_t (*create)(const void* params, void** object, backstop_error* error);
  /* Destroys an object that `create` made. Never throws. */
  void (*destroy)(void* object);
} backstop_plugin_descriptor;

/* The type of backstop_plugin_v1. The returned descriptor lives as long as the process. */
typedef const backstop_plugin_descriptor* (*backstop_plugin_entry)(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* BACKSTOP_ABI_H */
