#include "host/engine/plugins/process_state.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>

#include <unistd.h>

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "host/base/text.hpp"

namespace backstop::engine {

namespace fs = std::filesystem;

namespace {

std::vector<std::string> sorted_environment() {
  std::vector<std::string> variables;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable)
    variables.emplace_back(*variable);
  std::sort(variables.begin(), variables.end());
  return variables;
}

std::string name_of(const std::string& variable) {
  return variable.substr(0, variable.find('='));
}

std::vector<std::string> missing_in(const std::vector<std::string>& others,
                                    const std::vector<std::string>& variables) {
  std::vector<std::string> missing;
  std::set_difference(variables.begin(), variables.end(), others.begin(), others.end(),
                      std::back_inserter(missing));
  return missing;
}

std::size_t entries_of(const char* folder) {
  std::error_code error;
  const auto count = std::distance(fs::directory_iterator(folder, error), fs::directory_iterator());
  return static_cast<std::size_t>(count);
}

}  // namespace

ProcessState ProcessState::now() {
  ProcessState state;
  std::error_code removed;
  state.folder_ = fs::current_path(removed).string();
  state.umask_ = ::umask(0);
  ::umask(state.umask_);
  pthread_sigmask(SIG_BLOCK, nullptr, &state.blocked_);
  for (int number = 1; number < kSignals; ++number)
    sigaction(number, nullptr, &state.actions_.at(static_cast<std::size_t>(number)));
  state.environment_ = sorted_environment();
  return state;
}

std::vector<std::string> ProcessState::differences(const ProcessState& later) const {
  std::vector<std::string> names;
  if (folder_ != later.folder_) names.emplace_back("current folder");
  if (umask_ != later.umask_) names.emplace_back("umask");
  for (int number = 1; number < kSignals; ++number) {
    const auto i = static_cast<std::size_t>(number);
    if (sigismember(&blocked_, number) != sigismember(&later.blocked_, number))
      names.push_back(fmt::format("blocking of SIG{}", sigabbrev_np(number)));
    if (actions_.at(i).sa_handler != later.actions_.at(i).sa_handler ||
        actions_.at(i).sa_flags != later.actions_.at(i).sa_flags)
      names.push_back(fmt::format("handling of SIG{}", sigabbrev_np(number)));
  }
  std::vector<std::string> variables;
  for (const auto& variable : missing_in(later.environment_, environment_))
    variables.push_back(name_of(variable));
  for (const auto& variable : missing_in(environment_, later.environment_))
    variables.push_back(name_of(variable));
  std::sort(variables.begin(), variables.end());
  variables.erase(std::unique(variables.begin(), variables.end()), variables.end());
  for (const auto& variable : variables)
    names.push_back(fmt::format("environment variable `{}`", variable));
  return names;
}

void ProcessState::restore() const {
  std::error_code removed;
  if (!folder_.empty()) fs::current_path(folder_, removed);
  ::umask(umask_);
  pthread_sigmask(SIG_SETMASK, &blocked_, nullptr);
  for (int number = 1; number < kSignals; ++number)  // fails for SIGKILL and SIGSTOP
    sigaction(number, &actions_.at(static_cast<std::size_t>(number)), nullptr);
  const auto later = sorted_environment();
  for (const auto& variable : missing_in(environment_, later))
    ::unsetenv(name_of(variable).c_str());
  for (const auto& variable : missing_in(later, environment_))
    ::setenv(name_of(variable).c_str(), variable.substr(variable.find('=') + 1).c_str(), 1);
}

ProcessBelongings ProcessBelongings::now() {
  siginfo_t unused{};
  return {entries_of("/proc/self/task"), entries_of("/proc/self/fd"),
          ::waitid(P_ALL, 0, &unused, WEXITED | WNOHANG | WNOWAIT) == 0};
}

std::vector<std::string> ProcessBelongings::additions(const ProcessBelongings& later) const {
  std::vector<std::string> words;
  if (later.threads > threads) words.push_back(base::count_of(later.threads - threads, "thread"));
  if (later.files > files) words.push_back(base::count_of(later.files - files, "open file"));
  if (later.children) words.emplace_back("a child process");
  return words;
}

std::size_t end_children() {
  std::size_t ended = 0;
  std::error_code error;
  for (const auto& thread : fs::directory_iterator("/proc/self/task", error)) {
    std::ifstream children(thread.path() / "children");
    for (pid_t child = 0; children >> child; ++ended) {
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
  }
  return ended;
}

}  // namespace backstop::engine
