#include "tests/support/program.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <unistd.h>

#include <sys/wait.h>

namespace backstop::testing {
namespace {

std::array<int, 2> make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  return ends;
}

/// Appends the available output; false at the end.
bool read_some(int descriptor, std::string& text) {
  std::array<char, 4096> buffer;
  const ssize_t n = read(descriptor, buffer.data(), buffer.size());
  if (n < 0 && errno == EINTR) return true;
  if (n <= 0) return false;
  text.append(buffer.data(), static_cast<std::size_t>(n));
  return true;
}

}  // namespace

Process::Process(const Start& start) {
  const auto out = make_pipe();
  const auto err = make_pipe();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (start.standard_output == "-")
    posix_spawn_file_actions_addclose(&actions, STDOUT_FILENO);
  else if (!start.standard_output.empty())
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, start.standard_output.c_str(),
                                     O_WRONLY, 0);
  else
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  if (!start.folder.empty()) posix_spawn_file_actions_addchdir_np(&actions, start.folder.c_str());

  std::vector<std::string> words = start.arguments;
  words.insert(words.begin(), start.program);
  const char* path = std::getenv("PATH");
  std::vector<std::string> variables{std::string("PATH=") + (path ? path : "")};
  for (const auto& [name, value] : start.environment) variables.push_back(name + "=" + value);
  const auto pointers = [](std::vector<std::string>& strings) {
    std::vector<char*> result;
    for (auto& string : strings) result.push_back(string.data());
    result.push_back(nullptr);
    return result;
  };
  if (start.nobody_reads) close(out[0]);
  const int error = posix_spawnp(&pid_, start.program.c_str(), &actions, nullptr,
                                 pointers(words).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  close(err[1]);
  out_ = start.nobody_reads ? -1 : out[0];
  err_ = err[0];
  if (error != 0) throw std::runtime_error("cannot start " + start.program);
}

void Process::wait_for_error_text(const std::string& text) {
  while (outcome_.err.find(text) == std::string::npos && read_some(err_, outcome_.err)) {
  }
}

void Process::send(int signal) const {
  kill(pid_, signal);
}

Outcome Process::wait() {
  std::array<pollfd, 2> files{pollfd{out_, POLLIN, 0}, pollfd{err_, POLLIN, 0}};
  std::array<std::string*, 2> texts{&outcome_.out, &outcome_.err};
  while (files[0].fd >= 0 || files[1].fd >= 0) {
    if (poll(files.data(), files.size(), -1) < 0) continue;
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (files[i].fd < 0 || files[i].revents == 0 || read_some(files[i].fd, *texts[i])) continue;
      close(files[i].fd);
      files[i].fd = -1;
    }
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  if (WIFEXITED(status)) outcome_.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome_.signal = WTERMSIG(status);
  return std::exchange(outcome_, {});
}

}  // namespace backstop::testing
