/* The binary contract between a plugin and the host: the only part that is plain C.
 *
 * A plugin exports one function, backstop_plugin_v1, and nothing else. The host calls it after it
 * has read the plugin's ELF notes (see note.hpp) and found that both were built for each other.
 * Everything behind `create` is C++ (see attack.hpp, defense.hpp, scheduler.hpp, dataset.hpp) and
 * holds only between equal LibTorch major.minor versions and equal libstdc++ ABIs.
 *
 * Compiles as C11 and as C++20. Structures only ever grow at their end: a reader looks at
 * struct_size before it touches a field that came later. */
#ifndef BACKSTOP_ABI_H
#define BACKSTOP_ABI_H

#include <stdint.h>

/* 0.N is not stable: a host loads plugins of exactly its own 0.N. From 1.0 on it loads every 1.M
 * with M <= its own minor. */
#define BACKSTOP_ABI_MAJOR 0
#define BACKSTOP_ABI_MINOR 3

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
  BACKSTOP_ERROR_PLUGIN = 1,      /* a mistake of the plugin, or an exception it did not expect */
  BACKSTOP_ERROR_PARAMETER = 2,   /* the recipe asks for something that cannot be */
  BACKSTOP_ERROR_ENVIRONMENT = 3, /* data missing or broken, disk full, no permission */
  BACKSTOP_ERROR_CANCELLED = 4
};

/* Filled by the plugin, owned by the caller: no allocation crosses the boundary when a call fails.
 * Both texts are UTF-8 and end with a zero byte. */
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
  /* Makes the plugin's object. `params` is a `const backstop::Params*` that outlives the object.
   * On success stores a pointer to the kind's interface (`backstop::Attack*` for an attack) in
   * *object and returns BACKSTOP_OK; otherwise fills *error and returns its code. Never throws. */
  int32_t (*create)(const void* params, void** object, backstop_error* error);
  /* Ends an object that `create` made. Never throws. */
  void (*destroy)(void* object);
} backstop_plugin_descriptor;

/* The type of backstop_plugin_v1. The descriptor it returns lives as long as the process. */
typedef const backstop_plugin_descriptor* (*backstop_plugin_entry)(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* BACKSTOP_ABI_H */
