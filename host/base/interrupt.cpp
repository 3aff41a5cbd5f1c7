#include "host/base/interrupt.hpp"

#include "backstop/error.hpp"

namespace backstop::base {

namespace {

std::atomic<const std::atomic<int>*> watched{nullptr};
std::atomic<std::atomic<std::uint64_t>*> watched_pulse{nullptr};

}  // namespace

void watch_for_interrupt(const std::atomic<int>* signal_number) {
  watched = signal_number;
}

void watch_pulse(std::atomic<std::uint64_t>* pulse) {
  watched_pulse = pulse;
}

void sign_of_life() {
  if (std::atomic<std::uint64_t>* pulse = watched_pulse; pulse != nullptr)
    pulse->fetch_add(1, std::memory_order_relaxed);
}

void stop_if_interrupted() {
  sign_of_life();
  const std::atomic<int>* signal_number = watched;
  if (signal_number != nullptr && *signal_number != 0) throw Cancelled();
}

}  // namespace backstop::base
