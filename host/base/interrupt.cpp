#include "host/base/interrupt.hpp"

#include "backstop/error.hpp"

namespace backstop::base {

namespace {

std::atomic<const std::atomic<int>*> watched{nullptr};

}  // namespace

void watch_for_interrupt(const std::atomic<int>* signal_number) {
  watched = signal_number;
}

void stop_if_interrupted() {
  const std::atomic<int>* signal_number = watched;
  if (signal_number != nullptr && *signal_number != 0) throw Cancelled();
}

}  // namespace backstop::base
