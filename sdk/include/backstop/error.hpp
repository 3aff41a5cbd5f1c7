// Exceptions that plugins throw to say what went wrong. The host turns each into a message, a hint
// and an exit code. Any other exception is reported as a bug in the plugin.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace backstop {
inline namespace v1 {

#define BACKSTOP_VISIBLE __attribute__((visibility("default")))

/// Base of the exceptions below; thrown itself, it reports a bug in the plugin. The message is
/// lower case, without a final period, and names the thing, the value found and the value expected;
/// the hint says what to do about it.
class BACKSTOP_VISIBLE Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, std::string hint = {})
      : std::runtime_error(message), hint_(std::move(hint)) {}
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

/// The recipe asks for something impossible that only the plugin can detect (exit code 2).
class BACKSTOP_VISIBLE ParameterError : public Error {
 public:
  using Error::Error;
};

/// Data is missing or damaged, the disk is full, or permission is denied (exit code 4).
class BACKSTOP_VISIBLE EnvironmentError : public Error {
 public:
  using Error::Error;
};

/// The run was interrupted. The host's services and Context::stop_if_cancelled throw it; do not
/// catch it.
class BACKSTOP_VISIBLE Cancelled : public Error {
 public:
  Cancelled() : Error("interrupted") {}
};

}  // namespace v1
}  // namespace backstop
