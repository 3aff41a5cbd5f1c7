// How a long command learns that it should stop.
#pragma once

#include <atomic>

namespace backstop::cli {

/// From now on the first SIGINT, SIGTERM or SIGHUP only stores its number in the returned variable; a
/// second one ends the program at once. SIGHUP stays ignored where the caller ignores it, as
/// `nohup` does. SIGXFSZ is ignored, so that a file beyond the size limit is an error like a full
/// disk.
const std::atomic<int>& catch_signals();
/// The same, and the number is stored in `number`, too, if that is 0.
void catch_signals(std::atomic<int>& number);
/// In a child, which gets the terminal's signals as its parent does: a second one ends the parent,
/// and that ends the child.
void pass_signals(std::atomic<int>& number);

}  // namespace backstop::cli
