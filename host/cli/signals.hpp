// How a long command learns that it should stop.
#pragma once

#include <atomic>

namespace backstop::cli {

/// From now on the first SIGINT, SIGTERM or SIGHUP only stores its number in the returned variable; a
/// second one ends the program at once. SIGHUP stays ignored where the caller ignores it, as
/// `nohup` does. SIGXFSZ is ignored, so that a file beyond the size limit is an error like a full
/// disk.
const std::atomic<int>& catch_signals();

}  // namespace backstop::cli
