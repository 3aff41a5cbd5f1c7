#include "host/cli/process_end.hpp"

#include <array>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <execinfo.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/syscall.h>

#include "host/base/error.hpp"
#include "host/cli/console.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/engine_process.hpp"

namespace backstop::cli {
namespace {

pid_t watched_process = 0;  // 0: nothing is watched; a forked child is another process
const char* (*plugin_call)() = nullptr;
EngineLink* listener = nullptr;  // nothing: standard error

bool watches() {
  return watched_process != 0 && ::getpid() == watched_process;
}

[[noreturn]] void end_process(int status) {
  for (;;) ::syscall(SYS_exit_group, status);
}

/// The library that called the function of the C library which called this one.
std::filesystem::path calling_library() {
  std::array<void*, 16> frames{};
  const int depth = ::backtrace(frames.data(), static_cast<int>(frames.size()));
  Dl_info program{}, c_library{}, info{};
  ::dladdr(reinterpret_cast<void*>(&calling_library), &program);
  ::dladdr(reinterpret_cast<void*>(&::getpid), &c_library);
  for (int i = 0; i < depth; ++i)
    if (::dladdr(frames.at(static_cast<std::size_t>(i)), &info) != 0 &&
        info.dli_fbase != program.dli_fbase && info.dli_fbase != c_library.dli_fbase)
      return info.dli_fname;
  return {};
}

/// Says who called `function`, and ends the process with the status that this has.
[[noreturn]] void end_with_blame(const std::string& function) {
  const std::filesystem::path library = calling_library();
  watched_process = 0;
  // OpenMP ends the process when it cannot start a thread, and has said so.
  const std::string name = library.filename().string();
  const bool openmp = name.starts_with("libgomp") || name.starts_with("libomp");
  const char* const call = plugin_call();
  const std::string during = call != nullptr ? fmt::format(" during the call of {}", call) : "";
  const auto code = openmp ? base::ExitCode::environment : base::ExitCode::plugin;
  const std::string error =
      fmt::format("{} ended the process with {}{}",
                  library.empty() ? "something" : library.string(), function, during);
  const char* const hint = openmp ? "free some memory, or raise the limit on processes"
                                  : "a plugin must return or throw: report it to its author";
  if (listener != nullptr)
    listener->ended(code, error, hint);
  else
    print_error(error, hint);
  end_process(static_cast<int>(code));
}

void on_exit_function() {
  if (watches()) end_with_blame("exit()");
}

void on_quick_exit() {
  if (watches()) end_with_blame("quick_exit()");
}

constexpr std::array kCrashes = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

/// Only what a signal handler may do.
extern "C" void on_crash(int number) {
  const char* const call = watches() ? plugin_call() : nullptr;
  if (call != nullptr && listener != nullptr)
    std::strncpy(listener->page().call.data(), call, listener->page().call.size() - 1);
  else if (call != nullptr)
    for (const char* part :
         {"error: SIG", ::sigabbrev_np(number), " during the call of ", call, "\n"})
      (void)!::write(STDERR_FILENO, part, std::strlen(part));
  (void)::raise(number);  // when this returns, by the default action
}

void watch_crashes() {
  static std::array<char, 64 * 1024> own_stack;  // the other one may have overflowed
  stack_t stack{};
  stack.ss_sp = own_stack.data();
  stack.ss_size = own_stack.size();
  ::sigaltstack(&stack, nullptr);
  for (const int number : kCrashes) {
    struct sigaction action {
    }, before{};
    ::sigaction(number, nullptr, &before);
    if (before.sa_handler != SIG_DFL) continue;  // a sanitizer says more
    action.sa_handler = on_crash;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_ONSTACK);
    ::sigaction(number, &action, nullptr);
  }
}

/// The C library's own function that one of those below stands before.
template <typename Function>
Function* original(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

/// The arguments of execl() and execlp(), which end with a null pointer.
std::vector<char*> collect(const char* first, va_list others) {
  std::vector<char*> words{const_cast<char*>(first)};
  while (words.back() != nullptr)
    words.push_back(va_arg(others, char*));  // NOLINT(clang-analyzer-valist.Uninitialized)
  return words;
}

}  // namespace

ProcessEndWatch::ProcessEndWatch() {
  listener = EngineLink::get();
  plugin_call = &engine_function<const char*()>(engine::kEnginePluginCall);
  static const bool registered =
      std::atexit(on_exit_function) == 0 && std::at_quick_exit(on_quick_exit) == 0;
  static_cast<void>(registered);
  watch_crashes();
  watched_process = ::getpid();
}

ProcessEndWatch::~ProcessEndWatch() {
  watched_process = 0;
}

}  // namespace backstop::cli

// Exported by the program, and so found before the functions of the C library by whatever is loaded
// into the process. The C library itself does not call them: exit() and posix_spawn() do not.
using backstop::cli::end_process;
using backstop::cli::end_with_blame;
using backstop::cli::original;
using backstop::cli::watches;

extern "C" {

void _exit(int status) {
  if (watches()) end_with_blame("_exit()");
  end_process(status);
}

void _Exit(int status) noexcept {
  if (watches()) end_with_blame("_Exit()");
  end_process(status);
}

int execve(const char* path, char* const* words, char* const* environment) noexcept {
  if (watches()) end_with_blame("execve()");
  return static_cast<int>(::syscall(SYS_execve, path, words, environment));
}

int execv(const char* path, char* const* words) noexcept {
  if (watches()) end_with_blame("execv()");
  return original<int(const char*, char* const*)>("execv")(path, words);
}

int execvp(const char* file, char* const* words) noexcept {
  if (watches()) end_with_blame("execvp()");
  return original<int(const char*, char* const*)>("execvp")(file, words);
}

int execvpe(const char* file, char* const* words, char* const* environment) noexcept {
  if (watches()) end_with_blame("execvpe()");
  return original<int(const char*, char* const*, char* const*)>("execvpe")(file, words,
                                                                           environment);
}

int execl(const char* path, const char* first, ...) noexcept {
  if (watches()) end_with_blame("execl()");
  va_list others;
  va_start(others, first);
  const auto words = backstop::cli::collect(first, others);
  va_end(others);
  return execv(path, words.data());
}

int execlp(const char* file, const char* first, ...) noexcept {
  if (watches()) end_with_blame("execlp()");
  va_list others;
  va_start(others, first);
  const auto words = backstop::cli::collect(first, others);
  va_end(others);
  return execvp(file, words.data());
}

}  // extern "C"
