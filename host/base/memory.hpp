// How much memory this process may still use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace backstop::base {

struct AvailableMemory {
  std::int64_t bytes;
  std::string where;  ///< what sets the limit: "are available on this machine"
};

/// The lowest of: what the machine has available, swap included; what the control groups (version
/// 2) of the process leave of their `memory.max`; what `ulimit -v` leaves. Rather too much than too
/// little: what the kernel can reclaim from caches counts as available. A limit that cannot be read
/// does not count. `root`: "/", except in tests.
AvailableMemory available_memory(const std::filesystem::path& root = "/");

}  // namespace backstop::base
