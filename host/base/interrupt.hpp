// Ctrl-C in work that knows nothing of stages: reading, hashing and copying files of any size.
#pragma once

#include <atomic>
#include <cstdint>

namespace backstop::base {

/// From now on stop_if_interrupted() looks at `*signal_number`; null: at nothing.
void watch_for_interrupt(const std::atomic<int>* signal_number);

/// From now on each sign of life counts in `*pulse`; null: nowhere.
void watch_pulse(std::atomic<std::uint64_t>* pulse);

/// The work goes on: whoever watches the pulse need not think that it hangs.
void sign_of_life();

/// A sign of life. Throws Cancelled when a signal has arrived. To be called about every megabyte, or a few times a
/// second.
void stop_if_interrupted();

}  // namespace backstop::base
