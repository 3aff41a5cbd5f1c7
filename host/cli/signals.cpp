#include "host/cli/signals.hpp"

#include <csignal>
#include <initializer_list>

namespace backstop::cli {
namespace {

std::atomic<int> first{0};
std::atomic<int>* told = &first;  // whom a signal's number is told to
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

void tell(int number) {
  int none = 0;
  told->compare_exchange_strong(none, number);
}

extern "C" void on_signal(int number) {
  int none = 0;
  if (first.compare_exchange_strong(none, number)) return tell(number);
  std::signal(number, SIG_DFL);
  std::raise(number);
}

extern "C" void on_passed_signal(int number) {
  tell(number);
}

void handle(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before {};
    sigaction(number, nullptr, &before);
    const bool under_nohup = number == SIGHUP && before.sa_handler == SIG_IGN;
    if (!under_nohup) sigaction(number, &action, nullptr);
  }
  std::signal(SIGXFSZ, SIG_IGN);
}

}  // namespace

const std::atomic<int>& catch_signals() {
  handle(on_signal);
  return first;
}

void catch_signals(std::atomic<int>& number) {
  told = &number;
  handle(on_signal);
}

void pass_signals(std::atomic<int>& number) {
  told = &number;
  handle(on_passed_signal);
}

}  // namespace backstop::cli
