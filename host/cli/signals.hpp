// How a long command learns that it is to stop.
#pragma once

#include <atomic>

namespace backstop::cli {

/// From now on the first SIGINT or SIGTERM only sets what this returns to its number; a second one
/// ends the program at once. A file that grows beyond the limit is an error like a full disk.
const std::atomic<int>& catch_signals();

}  // namespace backstop::cli
