// Any bytes for a plugin: what reads it gives an answer or a HostError. The seeds are small
// plugins:
//   printf '#include "backstop/note.hpp"\nBACKSTOP_NOTES("m.toml");\nint x;
//           int backstop_plugin_v1() { return x; }' | g++ -shared -nostdlib -s
//           -Wl,-z,noseparate-code
#include <cstddef>
#include <cstdint>

#include "host/base/error.hpp"
#include "host/catalog/elf/elf_note.hpp"
#include "host/catalog/elf/elf_symbols.hpp"
#include "tests/fuzz/memory_file.hpp"

namespace {

template <typename Read>
void expect_verdict(Read read) {
  try {
    read();
  } catch (const backstop::base::HostError& e) {
    if (e.code() != backstop::base::ExitCode::plugin || *e.what() == '\0') __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const backstop::fuzz::MemoryFile file(data, size);
  expect_verdict([&] { backstop::catalog::read_notes(file.path()); });
  expect_verdict([&] { backstop::catalog::exported_symbols(file.path()); });
  expect_verdict([&] { backstop::catalog::needed_libraries(file.path()); });
  return 0;
}
