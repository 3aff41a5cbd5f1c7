// This program again, in a process of its own: for what may crash or never end.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace backstop::cli {

struct ChildOutcome {
  int code = -1;           ///< exit status; -1: it did not exit by itself
  int signal = 0;          ///< the signal that ended it
  bool timed_out = false;  ///< killed at the limit
  std::string out, err;    ///< what it wrote
};

/// Runs this program with `arguments` and waits. Nothing of this process is shared but the
/// environment and the folder. Throws HostError(environment) when it cannot be started.
ChildOutcome run_self(const std::vector<std::string>& arguments, std::chrono::milliseconds limit);

/// The last line of `text` that is not empty.
std::string last_line(std::string_view text);

/// "SIGSEGV" for 11.
std::string signal_name(int signal);

}  // namespace backstop::cli
