// What ends the process while the engine works, without a word and perhaps with status 0.
#pragma once

namespace backstop::cli {

/// While it lives, a plugin, or a library, that ends this process is named, and the exit status is
/// that of a plugin that failed: after exit, quick_exit, _exit, _Exit and the functions of the exec
/// family but execle, fexecve and execveat. A crash is named before it ends the process. Who
/// started this process for the engine is told; else it is said on standard error. A system
/// call that the plugin makes itself, and SIGKILL, are not noticed.
class ProcessEndWatch {
 public:
  ProcessEndWatch();
  ~ProcessEndWatch();
  ProcessEndWatch(const ProcessEndWatch&) = delete;
  ProcessEndWatch& operator=(const ProcessEndWatch&) = delete;
};

}  // namespace backstop::cli
