#include "tests/support/file_operations.hpp"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/uio.h>

namespace backstop::testing {
namespace {

// Only regular files and folders count: what goes to pipes and terminals depends on the machine.
int kill_at = 0;
// A run is two processes: operations count in the one that does the work, and both are killed.
bool in_engine = false;
std::vector<FileOperation>& operations() {
  static auto& all = *new std::vector<FileOperation>;  // for as long as the process lives
  return all;
}

void note(FileOperation operation) {
  operations().push_back(std::move(operation));
  if (static_cast<int>(operations().size()) != kill_at) return;
  if (in_engine) ::kill(::getppid(), SIGKILL);
  ::kill(::getpid(), SIGKILL);
}

void note(FileOperation::Kind kind, int descriptor) {
  struct stat status {};
  if (::fstat(descriptor, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)))
    note({kind, status.st_ino, "", ""});
}

void note_name(const char* from, const char* to = "") {
  const auto kind = *to != 0 ? FileOperation::Kind::rename : FileOperation::Kind::change;
  note({kind, 0, from, to});
}

template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

/// For a program that loads this with LD_PRELOAD: BACKSTOP_TEST_KILL_AT is kill_at_operation()'s
/// number, and BACKSTOP_TEST_COUNT a file that gets the number of operations at the end.
struct FromEnvironment {
  FromEnvironment() {
    in_engine = std::getenv("BACKSTOP_ENGINE_PROCESS") != nullptr;
    if (!in_engine) return;
    if (const char* number = std::getenv("BACKSTOP_TEST_KILL_AT")) kill_at = std::atoi(number);
  }
  ~FromEnvironment() {
    const char* file = std::getenv("BACKSTOP_TEST_COUNT");
    if (file == nullptr || !in_engine) return;
    const auto count = operations().size();
    std::ofstream(file) << count;
  }
} from_environment;

}  // namespace

void kill_at_operation(int number) {
  operations().clear();
  kill_at = number;
}

const std::vector<FileOperation>& file_operations() {
  return operations();
}

}  // namespace backstop::testing

using backstop::testing::FileOperation;
using backstop::testing::note;
using backstop::testing::note_name;
using backstop::testing::real;

extern "C" {

FILE* fopen64(const char* path, const char* mode) {
  if (*mode != 'r') note_name(path);
  return real<FILE*(const char*, const char*)>("fopen64")(path, mode);
}

ssize_t write(int descriptor, const void* data, size_t size) {
  note(FileOperation::Kind::change, descriptor);
  return real<ssize_t(int, const void*, size_t)>("write")(descriptor, data, size);
}

ssize_t writev(int descriptor, const struct iovec* parts, int count) {
  note(FileOperation::Kind::change, descriptor);
  return real<ssize_t(int, const struct iovec*, int)>("writev")(descriptor, parts, count);
}

int fsync(int descriptor) {
  note(FileOperation::Kind::sync, descriptor);
  return real<int(int)>("fsync")(descriptor);
}

int rename(const char* from, const char* to) noexcept {
  note_name(from, to);
  return real<int(const char*, const char*)>("rename")(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned flags) noexcept {
  note_name(from, to);
  return real<int(int, const char*, int, const char*, unsigned)>("renameat2")(from_folder, from,
                                                                              to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  note_name(path);
  return real<int(const char*, mode_t)>("mkdir")(path, mode);
}

int unlink(const char* path) noexcept {
  note_name(path);
  return real<int(const char*)>("unlink")(path);
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  note_name(path);
  return real<int(int, const char*, int)>("unlinkat")(folder, path, flags);
}

int remove(const char* path) noexcept {
  note_name(path);
  return real<int(const char*)>("remove")(path);
}

}  // extern "C"
