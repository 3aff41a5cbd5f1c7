#include "host/cli/signals.hpp"

#include <csignal>
#include <initializer_list>

namespace backstop::cli {
namespace {

std::atomic<int> interrupted{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

extern "C" void on_signal(int number) {
  if (interrupted.exchange(number) == 0) return;
  std::signal(number, SIG_DFL);
  std::raise(number);
}

}  // namespace

const std::atomic<int>& catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before {};
    sigaction(number, nullptr, &before);
    const bool under_nohup = number == SIGHUP && before.sa_handler == SIG_IGN;
    if (!under_nohup) sigaction(number, &action, nullptr);
  }
  std::signal(SIGXFSZ, SIG_IGN);
  return interrupted;
}

}  // namespace backstop::cli
