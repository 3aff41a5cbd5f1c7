// A file that exists in memory only, for code that wants a path.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

#include <unistd.h>

#include <sys/mman.h>

namespace backstop::fuzz {

class MemoryFile {
 public:
  MemoryFile(const void* bytes, std::size_t size) : descriptor_(::memfd_create("fuzz", 0)) {
    if (descriptor_ < 0) fail("memfd_create");
    if (::write(descriptor_, bytes, size) != static_cast<ssize_t>(size)) fail("write");
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  [[noreturn]] static void fail(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
  }
  int descriptor_;
};

}  // namespace backstop::fuzz
