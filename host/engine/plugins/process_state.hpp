// What a plugin may change of the process that it runs in.
#pragma once

#include <array>
#include <csignal>
#include <string>
#include <vector>

#include <sys/types.h>

namespace backstop::engine {

/// The state that the process's threads share (current folder, umask, signal handlers,
/// environment) and this thread's blocked signals.
class ProcessState {
 public:
  static ProcessState now();
  /// What is different in `later`, in words for users such as "umask". Empty: nothing.
  [[nodiscard]] std::vector<std::string> differences(const ProcessState& later) const;
  void restore() const;

 private:
  static constexpr int kSignals = 32;  ///< 1 .. 31; the real-time signals have no fixed meaning

  std::string folder_;  ///< empty when it was removed
  mode_t umask_ = 0;
  sigset_t blocked_{};
  std::array<struct sigaction, kSignals> actions_{};
  std::vector<std::string> environment_;  ///< "NAME=value", sorted
};

/// What belongs to the process and would stay after a plugin has returned.
struct ProcessBelongings {
  std::size_t threads = 0, files = 0;
  bool children = false;

  static ProcessBelongings now();
  /// What there is more of in `later`, in words for users such as "2 threads"; child processes in
  /// any case, because the host has none.
  [[nodiscard]] std::vector<std::string> additions(const ProcessBelongings& later) const;
};

/// Ends the child processes of this process, which has none of its own, and returns their number.
std::size_t end_children();

}  // namespace backstop::engine
