// Runs a program and keeps its output.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

namespace backstop::testing {

struct Outcome {
  int code = -1;   ///< exit status; -1 if a signal ended it
  int signal = 0;  ///< that signal
  std::string out, err;
};

struct Start {
  std::string program;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment = {};  ///< all of it, apart from PATH
  std::string standard_output = {};                     ///< a file instead of `out`; "-": closed
  std::string folder = {};                              ///< to start in; empty: that of the test
  bool nobody_reads = false;                            ///< the pipe behind stdout has no reader
};

/// A running program. Call wait() exactly once.
class Process {
 public:
  explicit Process(const Start& start);
  /// Reads stderr until `text` appears in it, or the program closes it.
  void wait_for_error_text(const std::string& text);
  void send(int signal) const;
  Outcome wait();

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  Outcome outcome_;
};

}  // namespace backstop::testing
