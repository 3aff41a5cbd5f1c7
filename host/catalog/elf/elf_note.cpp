#include "host/catalog/elf/elf_note.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include <gelf.h>

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/catalog/elf/elf_dynamic.hpp"
#include "host/catalog/elf/elf_file.hpp"

namespace backstop::catalog {
namespace {

constexpr std::string_view kSection = ".note.backstop";
constexpr std::string_view kOwner{"BACKSTOP", 9};  // its zero byte counts
constexpr std::uint64_t kMaximumSize = 64 * 1024;

void store(std::optional<std::string>& to, const char* what, std::string_view text) {
  if (to) {
    refuse_as_damaged(
        fmt::format("{} holds {} twice, but a library is one plugin", kSection, what));
  }
  to = text;
}

}  // namespace

PluginNotes read_notes(const std::filesystem::path& path) {
  const ElfFile file(path);
  std::size_t names = 0;
  if (elf_getshdrstrndx(file.elf(), &names) != 0) refuse_as_damaged(elf_errmsg(-1));

  bool found = false;
  std::optional<std::string> facts, manifest;
  for (std::size_t i = 0; i < file.sections().size(); ++i) {
    const Elf64_Shdr& header = file.sections()[i];
    if (header.sh_type != SHT_NOTE) continue;
    const char* name = elf_strptr(file.elf(), names, header.sh_name);
    if (name == nullptr || name != kSection) continue;
    found = true;
    if (header.sh_size > kMaximumSize) {
      throw base::HostError(base::ExitCode::plugin,
                            fmt::format("{} is {} bytes long; at most {} are allowed", kSection,
                                        header.sh_size, kMaximumSize),
                            "shorten the manifest");
    }
    Elf_Data* data = elf_getdata(elf_getscn(file.elf(), i), nullptr);
    if (data == nullptr) refuse_as_damaged(elf_errmsg(-1));
    for (std::size_t at = 0; at < data->d_size;) {
      GElf_Nhdr note{};
      std::size_t owner_at = 0, text_at = 0;
      at = gelf_getnote(data, at, &note, &owner_at, &text_at);
      if (at == 0) refuse_as_damaged(fmt::format("{} is cut short", kSection));
      const char* bytes = static_cast<const char*>(data->d_buf);
      if (std::string_view(bytes + owner_at, note.n_namesz) != kOwner) continue;
      const std::string_view text(bytes + text_at, note.n_descsz);
      if (note.n_type == 1) store(facts, "the build's facts", text);
      if (note.n_type == 2) store(manifest, "a manifest", text);
    }
  }
  if (!found) refuse_as_foreign(fmt::format("it has no {} section", kSection));
  if (!facts) refuse_as_foreign(fmt::format("{} does not hold the build's facts", kSection));
  if (!manifest) refuse_as_foreign(fmt::format("{} does not hold a manifest", kSection));
  check_dynamic_section(file);
  return {*std::move(facts), *std::move(manifest)};
}

}  // namespace backstop::catalog
