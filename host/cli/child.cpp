#include "host/cli/child.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>
#include <thread>

#include <spawn.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "host/base/error.hpp"

namespace backstop::cli {
namespace {

[[noreturn]] void cannot_start(int error) {
  throw base::HostError(
      base::ExitCode::environment,
      fmt::format("cannot start a process: {}", std::generic_category().message(error)),
      "free some memory, or raise the limit on processes");
}

/// A file in memory that a child writes to; unlike a pipe, it needs no reader.
class Capture {
 public:
  Capture() : descriptor_(memfd_create("backstop", MFD_CLOEXEC)) {
    if (descriptor_ < 0) cannot_start(errno);
  }
  ~Capture() { ::close(descriptor_); }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  [[nodiscard]] int descriptor() const { return descriptor_; }
  [[nodiscard]] std::string text() const {
    std::string text;
    std::array<char, 4096> buffer{};
    off_t at = 0;
    for (ssize_t got = 0; (got = ::pread(descriptor_, buffer.data(), buffer.size(), at)) > 0;
         at += got)
      text.append(buffer.data(), static_cast<std::size_t>(got));
    return text;
  }

 private:
  int descriptor_;
};

pid_t spawn(const std::vector<std::string>& arguments, const Capture& out, const Capture& err) {
  std::vector<char*> words;
  std::string program = "backstop";
  words.push_back(program.data());
  std::vector<std::string> copies = arguments;
  for (auto& word : copies) words.push_back(word.data());
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", 0, 0);
  posix_spawn_file_actions_adddup2(&actions, out.descriptor(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.descriptor(), STDERR_FILENO);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, "/proc/self/exe", &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) cannot_start(error);
  return pid;
}

}  // namespace

ChildOutcome run_self(const std::vector<std::string>& arguments, std::chrono::milliseconds limit) {
  const Capture out, err;
  const pid_t pid = spawn(arguments, out, err);
  const auto deadline = std::chrono::steady_clock::now() + limit;
  ChildOutcome outcome;
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      outcome.timed_out = true;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  outcome.out = out.text();
  outcome.err = err.text();
  return outcome;
}

std::string last_line(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  const auto begin = text.rfind('\n');
  return std::string(begin == std::string_view::npos ? text : text.substr(begin + 1));
}

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

}  // namespace backstop::cli
