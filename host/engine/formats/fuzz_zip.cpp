// Any bytes as a zip archive: what is replaced in it is what is read from it then, or a HostError.
#include <cstdint>
#include <string>

#include "host/base/error.hpp"
#include "host/engine/formats/zip_archive.hpp"
#include "tests/fuzz/memory_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop;
  constexpr std::uint64_t kMost = 1 << 20;
  try {
    const fuzz::MemoryFile bytes(data, size);
    const engine::InputFile file(bytes.path());
    const engine::ZipArchive archive(file);
    std::string changed(reinterpret_cast<const char*>(data), size);
    std::string name, content;
    for (const engine::ZipEntry& entry : archive.entries()) {
      if (archive.read(entry, kMost).size() != entry.size) __builtin_trap();
      if (entry.deflated) continue;
      engine::Patches patches;
      name = entry.name;
      content.assign(entry.size, 'x');
      archive.replace(entry, content, patches);
      for (const auto& [offset, patch] : patches) changed.replace(offset, patch.size(), patch);
      break;
    }
    if (name.empty()) return 0;
    const fuzz::MemoryFile copy(changed.data(), changed.size());
    const engine::InputFile copied(copy.path());
    const engine::ZipArchive again(copied);
    if (again.read(*again.find(name), kMost) != content) __builtin_trap();
  } catch (const base::HostError& e) {
    if (e.code() != base::ExitCode::environment || *e.what() == '\0') __builtin_trap();
  }
  return 0;
}
