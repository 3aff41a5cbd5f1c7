// The program: finds the command, and turns whatever goes wrong into a sentence and an exit code.
#include <cerrno>
#include <csignal>
#include <new>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "host/base/text.hpp"
#include "host/cli/command.hpp"

namespace backstop::cli {
namespace {

const Command* find_command(const std::string& name) {
  for (const auto* command : commands())
    if (name == command->name) return command;
  return nullptr;
}

/// `plugin check` is one command, so `plugin` on its own is not a command, whatever follows it.
const Command* command_of_two_words(const std::string& first) {
  for (const auto* command : commands())
    if (std::string_view(command->name).starts_with(first + " ")) return command;
  return nullptr;
}

const Command& require_command(const std::string& name) {
  if (const auto* command = find_command(name)) return *command;
  std::vector<std::string> names{"help"};
  for (const auto* command : commands()) names.emplace_back(command->name);
  auto meant = base::nearest(name, names);
  if (const auto* command = command_of_two_words(name)) meant = command->name;
  const std::string what = name.starts_with('-') ? "option" : "command";
  throw base::HostError(
      base::ExitCode::usage, fmt::format("there is no {} `{}`", what, name),
      meant ? fmt::format("did you mean `{}`?", *meant) : "see `backstop --help`");
}

base::ExitCode help(const std::vector<std::string>& words) {
  if (words.size() == 2)  // `plugin check` is one command
    if (const auto* command = find_command(words[0] + " " + words[1])) {
      print(help_of(*command));
      return base::ExitCode::done;
    }
  if (words.size() > 1)
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("`help` takes one COMMAND, got {}", words.size()));
  if (words == std::vector<std::string>{"--man"}) {
    print(manual_page());
    return base::ExitCode::done;
  }
  const bool of_program = words.empty() || words[0] == "help" || words[0] == "--help";
  print(of_program ? help_of_program() : help_of(require_command(words[0])));
  return base::ExitCode::done;
}

base::ExitCode dispatch(std::vector<std::string> words) {
  if (words.empty())
    throw base::HostError(base::ExitCode::usage, "no command was given", "see `backstop --help`");
  const std::string first = words.front();
  words.erase(words.begin());
  if (first == "--help" || first == "-h" || first == "help") return help(words);
  if (first == "--version") {
    print(version_text());
    return base::ExitCode::done;
  }
  if (first == "--complete") {
    print(completions(words));
    return base::ExitCode::done;
  }
  if (!words.empty()) {
    if (const auto* command = find_command(first + " " + words.front())) {
      words.erase(words.begin());
      return run_command(*command, words);
    }
  }
  return run_command(require_command(first), words);
}

/// Without this, a file opened later could become the standard output that the caller had closed.
void fill_standard_descriptors() {
  for (int descriptor = 0; descriptor <= STDERR_FILENO; ++descriptor)
    if (fcntl(descriptor, F_GETFD) == -1 && errno == EBADF) (void)open("/dev/null", O_RDWR);
}

base::ExitCode guarded(const std::vector<std::string>& words) {
  try {
    return dispatch(words);
  } catch (const base::HostError& e) {
    print_error(e.what(), e.hint());
    return e.code();
  } catch (const std::bad_alloc&) {
    print_error("out of memory", "");
    return base::ExitCode::environment;
  } catch (const std::exception& e) {
    print_internal_error(e.what());
    return base::ExitCode::bug;
  }
}

}  // namespace
}  // namespace backstop::cli

int main(int argc, char** argv) {
  using namespace backstop::cli;
  fill_standard_descriptors();
  // When the reader of our output goes away, a write fails; it must not kill a training.
  std::signal(SIGPIPE, SIG_IGN);
  set_up_logging(use_color(ColorMode::automatic, STDERR_FILENO), spdlog::level::info);
  return static_cast<int>(guarded({argv + 1, argv + argc}));
}
