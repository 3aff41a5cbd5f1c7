// Runs a program and keeps what it wrote.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

namespace backstop::testing {

struct Outcome {
  int code = -1;   ///< -1: a signal ended it
  int signal = 0;  ///< which
  std::string out, err;
};

struct Start {
  std::string program;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment = {};  ///< all of it, but for PATH
  std::string standard_output = {};                     ///< a file instead of `out`; "-": closed
  bool nobody_reads = false;                            ///< the pipe behind stdout has no reader
};

/// A program that is running. wait() is to be called once.
class Process {
 public:
  explicit Process(const Start& start);
  /// Reads stderr until `text` appeared there, or the program closed it.
  void wait_for_error_text(const std::string& text);
  void send(int signal) const;
  Outcome wait();

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  Outcome outcome_;
};

}  // namespace backstop::testing
