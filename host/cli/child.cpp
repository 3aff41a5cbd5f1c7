#include "host/cli/child.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "host/base/error.hpp"

namespace backstop::cli {
namespace {

constexpr int kNotStarted = 127;  // as shells say it

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

/// In the child: becomes `program`, which ends with its parent, whatever ends that, and at the limit,
/// whatever becomes of the parent. Only system calls, as after every fork.
[[noreturn]] void become(const char* program, char* const* words, const Capture& out,
                         const Capture& err, pid_t parent, unsigned seconds) {
  ::setpgid(0, 0);  // what it starts is in its group
  (void)std::signal(SIGALRM, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::alarm(seconds);  // survives exec, as does the next
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int null = ::open("/dev/null", O_RDONLY);
  if (::getppid() == parent && null >= 0 && ::dup2(null, STDIN_FILENO) >= 0 &&
      ::dup2(out.descriptor(), STDOUT_FILENO) >= 0 && ::dup2(err.descriptor(), STDERR_FILENO) >= 0)
    ::execvp(program, words);
  ::_exit(kNotStarted);
}

volatile pid_t child_group = 0;  // 0: there is no child

/// Ends the child and whatever it has started.
void kill_child() {
  if (child_group > 0) ::kill(-child_group, SIGKILL);
}

extern "C" void end_with_child(int number) {
  kill_child();
  (void)::raise(number);  // not handled any more
}

/// While it lives, the signals that end this process end the child, too.
class SharedSignals {
 public:
  SharedSignals() {
    for (std::size_t i = 0; i < kNumbers.size(); ++i) {
      ::sigaction(kNumbers[i], nullptr, &before_[i]);
      if (before_[i].sa_handler != SIG_DFL) continue;  // ignored, as under nohup
      struct sigaction action {};
      action.sa_handler = end_with_child;
      action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
      ::sigaction(kNumbers[i], &action, nullptr);
    }
  }
  ~SharedSignals() {
    for (std::size_t i = 0; i < kNumbers.size(); ++i)
      ::sigaction(kNumbers[i], &before_[i], nullptr);
  }
  SharedSignals(const SharedSignals&) = delete;
  SharedSignals& operator=(const SharedSignals&) = delete;

 private:
  static constexpr std::array<int, 3> kNumbers = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, kNumbers.size()> before_{};
};

pid_t spawn(const std::string& program, std::vector<std::string> copies, const Capture& out,
            const Capture& err, std::chrono::milliseconds limit) {
  constexpr std::chrono::seconds kGrace(5);  // this process comes first and says so
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit + kGrace).count();
  std::vector<char*> words;
  for (auto& word : copies) words.push_back(word.data());
  words.push_back(nullptr);
  const pid_t self = ::getpid(), pid = ::fork();
  if (pid < 0) cannot_start(errno);
  if (pid == 0)
    become(program.c_str(), words.data(), out, err, self, static_cast<unsigned>(seconds));
  ::setpgid(pid, pid);  // the child does so, too: the kill below must not come before it
  child_group = pid;
  return pid;
}

/// Whether it has ended. Its status stays, so that its process group cannot be another's yet.
bool has_ended(pid_t pid) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
         info.si_pid != 0;
}

ChildOutcome run(const std::string& program, const std::vector<std::string>& words,
                 std::chrono::milliseconds limit) {
  const Capture out, err;
  const SharedSignals signals;
  const pid_t pid = spawn(program, words, out, err, limit);
  const auto deadline = std::chrono::steady_clock::now() + limit;
  ChildOutcome outcome;
  while (!has_ended(pid) && !outcome.timed_out) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    outcome.timed_out = std::chrono::steady_clock::now() > deadline;
  }
  kill_child();
  child_group = 0;
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  outcome.out = out.text();
  outcome.err = err.text();
  return outcome;
}

}  // namespace

std::string shell_line(const std::vector<std::string>& words) {
  std::string line;
  for (const auto& word : words) {
    const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || std::strchr("-_./=:,+@%", c) != nullptr;
    });
    std::string quoted = "'";
    for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
    line += (line.empty() ? "" : " ") + (plain ? word : quoted + "'");
  }
  return line;
}

ChildOutcome run_self(const std::vector<std::string>& arguments, std::chrono::milliseconds limit) {
  std::vector<std::string> words = arguments;
  words.insert(words.begin(), "backstop");
  return run("/proc/self/exe", words, limit);
}

std::optional<ChildOutcome> run_program(const std::vector<std::string>& words,
                                        std::chrono::milliseconds limit) {
  ChildOutcome outcome = run(words[0], words, limit);
  if (outcome.code == kNotStarted) return std::nullopt;
  return outcome;
}

std::string debugger_line(const std::vector<std::string>& arguments,
                          std::initializer_list<std::string_view> left_out) {
  std::vector<std::string> words{"gdb", "-ex", "run", "--args",
                                 std::filesystem::read_symlink("/proc/self/exe").string()};
  for (const auto& word : arguments)
    if (std::find(left_out.begin(), left_out.end(), word) == left_out.end()) words.push_back(word);
  return shell_line(words);
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
