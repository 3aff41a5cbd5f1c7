#include "host/cli/needed_libraries.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include <elf.h>

#include "host/base/error.hpp"
#include "host/catalog/elf/elf_file.hpp"
#include "host/catalog/elf/elf_symbols.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;

/// The default folders on Debian; the linker's own list is compiled into it.
constexpr const char* kLinkerFolders[] = {
#if defined(__x86_64__)
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
#elif defined(__aarch64__)
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
#endif
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib"};

/// No real library has a longer run path.
constexpr std::uint64_t kLongestTable = std::uint64_t{1} << 24;

std::vector<fs::path> folders_in(std::string_view list, const fs::path& origin) {
  std::vector<fs::path> folders;
  while (!list.empty()) {
    const auto end = std::min(list.find(':'), list.size());
    std::string folder(list.substr(0, end));
    for (const std::string_view variable : {"$ORIGIN", "${ORIGIN}"})
      if (folder.starts_with(variable)) folder.replace(0, variable.size(), origin.string());
    // The linker would take an empty element for the current folder, which nobody intends.
    if (!folder.empty()) folders.emplace_back(std::move(folder));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return folders;
}

template <typename Entry>
std::vector<Entry> entries_of(const catalog::ElfFile& file, const Elf64_Shdr& section) {
  std::vector<Entry> entries(std::min(section.sh_size, kLongestTable) / sizeof(Entry));
  file.read(entries.data(), entries.size() * sizeof(Entry), section.sh_offset);
  return entries;
}

/// The folders in DT_RUNPATH, or in its predecessor DT_RPATH.
std::vector<fs::path> run_path(const fs::path& path) {
  const catalog::ElfFile file(path);
  for (const Elf64_Shdr& section : file.sections()) {
    if (section.sh_type != SHT_DYNAMIC || section.sh_link >= file.sections().size()) continue;
    const auto strings = entries_of<char>(file, file.sections()[section.sh_link]);
    for (const auto& entry : entries_of<Elf64_Dyn>(file, section)) {
      if (entry.d_tag == DT_NULL) break;
      if (entry.d_tag != DT_RUNPATH && entry.d_tag != DT_RPATH) continue;
      const std::size_t begin = std::min<std::size_t>(entry.d_un.d_val, strings.size());
      return folders_in(
          {strings.data() + begin, ::strnlen(strings.data() + begin, strings.size() - begin)},
          path.parent_path());
    }
  }
  return {};
}

/// The linker skips files for other machines, and so does this.
bool is_library(const fs::path& path) {
  try {
    const catalog::ElfFile file(path);
    return true;
  } catch (const base::HostError&) {
    return false;
  }
}

fs::path find(const std::string& name, const std::vector<fs::path>& folders,
              std::string_view cache) {
  if (name.find('/') != std::string::npos) return is_library(name) ? fs::path(name) : fs::path();
  for (const auto& folder : folders)
    if (auto path = folder / name; is_library(path)) return path;
  for (const auto& path : cached_paths(cache, name))
    if (is_library(path)) return path;
  for (const char* folder : kLinkerFolders)
    if (auto path = fs::path(folder) / name; is_library(path)) return path;
  return {};
}

}  // namespace

std::vector<NeededLibrary> find_needed_libraries(const fs::path& file,
                                                 const fs::path& loaded_before) {
  const char* variable = ::secure_getenv("LD_LIBRARY_PATH");
  auto folders = folders_in(variable != nullptr ? variable : "", file.parent_path());
  const auto add = [&folders](const std::vector<fs::path>& more) {
    folders.insert(folders.end(), more.begin(), more.end());
  };
  add(run_path(file));
  try {
    add(run_path(loaded_before));
  } catch (const base::HostError&) {
    // Others report a missing engine.
  }
  std::ifstream stream("/etc/ld.so.cache", std::ios::binary);
  const std::string cache{std::istreambuf_iterator<char>(stream), {}};
  std::vector<NeededLibrary> libraries;
  for (auto& name : catalog::needed_libraries(file)) {
    auto found = find(name, folders, cache);
    libraries.push_back({std::move(name), std::move(found)});
  }
  return libraries;
}

std::vector<std::string> missing(const std::vector<NeededLibrary>& libraries) {
  std::vector<std::string> names;
  for (const auto& library : libraries)
    if (library.found.empty()) names.push_back(library.name);
  return names;
}

std::vector<fs::path> cached_paths(std::string_view cache, std::string_view library) {
  // A header: magic and version, the number of entries, the size of the strings, and 20 more bytes.
  // Then entries of 24 bytes: flags, the offsets of the name and of the path, and 12 more bytes.
  constexpr std::string_view kMagic = "glibc-ld.so.cache1.1";
  constexpr std::size_t kHeader = 48, kEntry = 24;
  if (!cache.starts_with(kMagic) || cache.size() < kHeader) return {};
  const auto number_at = [cache](std::size_t offset) {
    std::uint32_t number = 0;
    std::memcpy(&number, cache.data() + offset, sizeof number);
    return number;
  };
  const auto text_at = [cache](std::size_t offset) {
    const auto text = cache.substr(std::min(offset, cache.size()));
    return text.substr(0, text.find('\0'));
  };
  std::vector<fs::path> paths;
  const std::size_t room = (cache.size() - kHeader) / kEntry;
  const std::size_t count = std::min<std::size_t>(number_at(kMagic.size()), room);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t entry = kHeader + i * kEntry;
    if (text_at(number_at(entry + 4)) == library) paths.emplace_back(text_at(number_at(entry + 8)));
  }
  return paths;
}

}  // namespace backstop::cli
