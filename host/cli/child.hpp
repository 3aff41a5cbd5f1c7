// Runs this program again in a child process, for work that may crash or never finish, and other
// programs.
#pragma once

#include <chrono>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace backstop::cli {

struct ChildOutcome {
  int code = -1;           ///< exit status; -1 if it did not exit by itself
  int signal = 0;          ///< the signal that ended it; 0 if none did
  bool timed_out = false;  ///< killed at the limit
  std::string out, err;    ///< what it wrote
};

/// Runs this program with `arguments` and waits. The child shares only the environment and the
/// current folder. When it ends, so does whatever it has started and left in its process group. It
/// ends with this process, whatever ends that, and soon after the limit in any case. Throws
/// HostError(environment) if it cannot be started.
ChildOutcome run_self(const std::vector<std::string>& arguments, std::chrono::milliseconds limit);

/// The same for another program, which is looked for in PATH; nothing if it cannot be started.
std::optional<ChildOutcome> run_program(const std::vector<std::string>& words,
                                        std::chrono::milliseconds limit);

/// The words for a shell.
std::string shell_line(const std::vector<std::string>& words);

/// The line for a shell that runs this program with `arguments`, without those in `left_out`, in gdb.
std::string debugger_line(const std::vector<std::string>& arguments,
                          std::initializer_list<std::string_view> left_out);

/// The last non-empty line of `text`.
std::string last_line(std::string_view text);

/// "SIGSEGV" for 11.
std::string signal_name(int signal);

}  // namespace backstop::cli
