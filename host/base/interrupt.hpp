// Ctrl-C in work that knows nothing of stages: reading, hashing and copying files of any size.
#pragma once

#include <atomic>

namespace backstop::base {

/// From now on stop_if_interrupted() looks at `*signal_number`; null: at nothing.
void watch_for_interrupt(const std::atomic<int>* signal_number);

/// Throws Cancelled when a signal has arrived. To be called about every megabyte, or a few times a
/// second.
void stop_if_interrupted();

}  // namespace backstop::base
