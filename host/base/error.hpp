// The error that ends a command: a message, a hint and an exit code.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace backstop::base {

enum class ExitCode : int {
  done = 0,
  failed = 1,         ///< ran, but a job or an expectation failed
  usage = 2,          ///< command line or recipe: edit and try again
  plugin = 3,         ///< missing, does not fit, or failed
  environment = 4,    ///< data missing, disk full, no permission, no GPU
  bug = 5,            ///< an internal error
  hung_up = 129,      ///< SIGHUP: the terminal went away
  interrupted = 130,  ///< SIGINT: Ctrl-C
  terminated = 143,   ///< SIGTERM
};

/// As shells count: 128 and the signal's number.
constexpr ExitCode exit_code_of_signal(int number) {
  return static_cast<ExitCode>(128 + number);
}

/// The message is lower case, without a final stop, and names the thing, the value and the limit.
class HostError : public std::runtime_error {
 public:
  HostError(ExitCode code, std::string message, std::string hint = {})
      : std::runtime_error(without_zero_bytes(message)), code_(code), hint_(std::move(hint)) {}
  [[nodiscard]] ExitCode code() const noexcept { return code_; }
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }

 private:
  /// what() would end there.
  static const std::string& without_zero_bytes(std::string& message) {
    std::replace(message.begin(), message.end(), '\0', '?');
    return message;
  }

  ExitCode code_;
  std::string hint_;
};

}  // namespace backstop::base
