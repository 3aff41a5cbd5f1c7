// Whether a FileLock is held, for those who only look.
#pragma once

#include <filesystem>
#include <string>

namespace backstop::base {

enum class LockState {
  free,     ///< nobody holds it, or there is no such file
  held,     ///< somebody else does
  unknown,  ///< the file system has no locks, or the file cannot be read
};
/// Changes nothing.
LockState lock_state(const std::filesystem::path& file);

/// The line about the last one who held it: "process 17 on node3".
std::string lock_holder(const std::filesystem::path& file);

}  // namespace backstop::base
