// Sees every change that this process makes to files, through functions that take the place of the
// C library's: a test ends the process at any of them, or asks what would survive a loss of power.
// Linked into a test program, or loaded into another one with LD_PRELOAD.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

namespace backstop::testing {

struct FileOperation {
  enum class Kind { change, sync, rename } kind = Kind::change;
  ino_t inode = 0;       ///< of what was changed or synced
  std::string from, to;  ///< of a rename
};

/// Forgets the operations so far. From now on the `number`th operation, counted from 1, kills the
/// process with SIGKILL before it happens; 0: none does.
void kill_at_operation(int number);
/// Since then.
const std::vector<FileOperation>& file_operations();

}  // namespace backstop::testing
