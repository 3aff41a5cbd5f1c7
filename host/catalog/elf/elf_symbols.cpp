#include "host/catalog/elf/elf_symbols.hpp"

#include <algorithm>

#include <gelf.h>

#include "host/catalog/elf/elf_file.hpp"

namespace backstop::catalog {
namespace {

/// Calls `visit(data, header)` for every section of `type`, whose entries are `entry_size` long.
template <typename Visit>
void for_each_section(const ElfFile& file, Elf64_Word type, Visit visit) {
  for (Elf_Scn* section = nullptr; (section = elf_nextscn(file.elf(), section)) != nullptr;) {
    GElf_Shdr header{};
    if (gelf_getshdr(section, &header) == nullptr) refuse_as_damaged(elf_errmsg(-1));
    if (header.sh_type != type) continue;
    Elf_Data* data = elf_getdata(section, nullptr);
    if (data == nullptr) refuse_as_damaged(elf_errmsg(-1));
    visit(*data, header);
  }
}

std::string string_at(const ElfFile& file, const GElf_Shdr& header, std::size_t offset) {
  const char* text = elf_strptr(file.elf(), header.sh_link, offset);
  if (text == nullptr) refuse_as_damaged(elf_errmsg(-1));
  return text;
}

bool is_exported(const GElf_Sym& symbol) {
  const auto binding = GELF_ST_BIND(symbol.st_info);
  const auto visibility = GELF_ST_VISIBILITY(symbol.st_other);
  return symbol.st_shndx != SHN_UNDEF &&
         (binding == STB_GLOBAL || binding == STB_WEAK || binding == STB_GNU_UNIQUE) &&
         (visibility == STV_DEFAULT || visibility == STV_PROTECTED);
}

}  // namespace

std::vector<std::string> exported_symbols(const std::filesystem::path& path) {
  const ElfFile file(path);
  std::vector<std::string> names;
  for_each_section(file, SHT_DYNSYM, [&](Elf_Data& data, const GElf_Shdr& header) {
    GElf_Sym symbol{};
    for (int i = 0; gelf_getsym(&data, i, &symbol) != nullptr; ++i) {
      if (is_exported(symbol)) names.push_back(string_at(file, header, symbol.st_name));
    }
  });
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> needed_libraries(const std::filesystem::path& path) {
  const ElfFile file(path);
  std::vector<std::string> names;
  for_each_section(file, SHT_DYNAMIC, [&](Elf_Data& data, const GElf_Shdr& header) {
    GElf_Dyn entry{};
    for (int i = 0; gelf_getdyn(&data, i, &entry) != nullptr && entry.d_tag != DT_NULL; ++i) {
      if (entry.d_tag == DT_NEEDED) names.push_back(string_at(file, header, entry.d_un.d_val));
    }
  });
  return names;
}

}  // namespace backstop::catalog
