#include "host/catalog/elf_note.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include <elf.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <unistd.h>

#include <sys/stat.h>

#include "host/error.hpp"

namespace backstop::host {
namespace {

constexpr std::string_view kSection = ".note.backstop";
constexpr std::string_view kOwner{"BACKSTOP", 9};  // its zero byte counts
constexpr std::uint64_t kMaximumSize = 64 * 1024;

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#else
#error "name this machine's ELF number here"
#endif

[[noreturn]] void refuse(const std::string& why, const std::string& hint = {}) {
  throw HostError(ExitCode::plugin, why, hint);
}

[[noreturn]] void refuse_as_damaged(const std::string& why) {
  refuse("file is damaged: " + why, "build or copy the plugin again");
}

[[noreturn]] void refuse_as_foreign(const std::string& why) {
  refuse("not a backstop plugin: " + why, "build it with backstop_add_plugin()");
}

std::string error_text(int error) {
  return std::generic_category().message(error);
}

std::string machine_name(unsigned machine) {
  switch (machine) {
    case EM_X86_64:
      return "x86-64";
    case EM_AARCH64:
      return "AArch64";
    default:
      return "ELF machine " + std::to_string(machine);
  }
}

class File {
 public:
  explicit File(const std::filesystem::path& path)
      // O_NONBLOCK: opening a FIFO must not wait for its writer.
      : descriptor_(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (descriptor_ < 0) refuse_unopened(path, errno);
  }
  ~File() { ::close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  [[nodiscard]] int descriptor() const { return descriptor_; }

  [[nodiscard]] std::uint64_t size() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) refuse("cannot be read: " + error_text(errno));
    if (S_ISDIR(status.st_mode)) refuse("not a regular file but a directory");
    if (S_ISFIFO(status.st_mode)) refuse("not a regular file but a FIFO");
    if (!S_ISREG(status.st_mode)) refuse("not a regular file but a device");
    return static_cast<std::uint64_t>(status.st_size);
  }

  void read(void* to, std::size_t size, std::uint64_t offset) const {
    const ssize_t got = ::pread(descriptor_, to, size, static_cast<off_t>(offset));
    if (got < 0) refuse("cannot be read: " + error_text(errno));
    if (static_cast<std::size_t>(got) != size) refuse_as_damaged("it shrank while it was read");
  }

 private:
  [[noreturn]] static void refuse_unopened(const std::filesystem::path& path, int error) {
    std::error_code ignored;
    if (error == ENOENT && std::filesystem::is_symlink(path, ignored)) {
      refuse("dangling link: it points to " +
             std::filesystem::read_symlink(path, ignored).string() + ", which does not exist");
    }
    refuse("cannot be opened: " + error_text(error));
  }

  int descriptor_;
};

void require_inside(const std::string& what, std::uint64_t offset, std::uint64_t size,
                    std::uint64_t file_size) {
  std::uint64_t end = 0;
  if (__builtin_add_overflow(offset, size, &end)) end = std::numeric_limits<std::uint64_t>::max();
  if (end > file_size) {
    refuse("file is truncated: " + what + " ends at byte " + std::to_string(end) +
               ", the file has " + std::to_string(file_size),
           "build or copy the plugin again");
  }
}

Elf64_Ehdr read_header(const File& file, std::uint64_t file_size) {
  if (file_size == 0) refuse("file is empty");
  Elf64_Ehdr header{};
  const auto available =
      static_cast<std::size_t>(std::min<std::uint64_t>(file_size, sizeof header));
  file.read(&header, available, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) refuse_as_foreign("it is no ELF file");
  require_inside("the ELF header", 0, sizeof header, file_size);
  if (header.e_ident[EI_CLASS] != ELFCLASS64) {
    refuse("a library of ELF class " + std::to_string(header.e_ident[EI_CLASS]) +
               ", this host is 64-bit (class 2)",
           "build the plugin on this machine");
  }
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) {
    refuse("a library of ELF byte order " + std::to_string(header.e_ident[EI_DATA]) +
               ", this host is little-endian (1)",
           "build the plugin on this machine");
  }
  if (header.e_machine != kMachine) {
    refuse(
        "built for " + machine_name(header.e_machine) + ", this host is " + machine_name(kMachine),
        "build the plugin on this machine");
  }
  if (header.e_type != ET_DYN) {
    refuse_as_foreign("its ELF type is " + std::to_string(header.e_type) +
                      ", a shared library's is 3");
  }
  return header;
}

void check_segments(const File& file, const Elf64_Ehdr& header, std::uint64_t file_size) {
  if (header.e_phnum != 0 && header.e_phentsize != sizeof(Elf64_Phdr)) {
    refuse_as_damaged("a program header is " + std::to_string(header.e_phentsize) +
                      " bytes long, expected " + std::to_string(sizeof(Elf64_Phdr)));
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  const std::size_t size = segments.size() * sizeof(Elf64_Phdr);
  require_inside("the program header table", header.e_phoff, size, file_size);
  file.read(segments.data(), size, header.e_phoff);
  for (std::size_t i = 0; i < segments.size(); ++i) {
    require_inside("segment " + std::to_string(i), segments[i].p_offset, segments[i].p_filesz,
                   file_size);
  }
}

void check_section_table(const Elf64_Ehdr& header, std::uint64_t file_size) {
  // Where e_shnum is 0 the count may stand in section 0 instead: no plugin has that many.
  if (header.e_shnum == 0) refuse_as_foreign("it has no sections");
  if (header.e_shentsize != sizeof(Elf64_Shdr)) {
    refuse_as_damaged("a section header is " + std::to_string(header.e_shentsize) +
                      " bytes long, expected " + std::to_string(sizeof(Elf64_Shdr)));
  }
  require_inside("the section header table", header.e_shoff,
                 std::uint64_t{header.e_shnum} * sizeof(Elf64_Shdr), file_size);
}

/// All sections that hold notes, after every section was found to end inside the file.
std::vector<Elf_Scn*> note_sections(Elf* elf, std::uint64_t file_size) {
  std::vector<Elf_Scn*> found;
  for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
    GElf_Shdr header{};
    if (gelf_getshdr(section, &header) == nullptr) refuse_as_damaged(elf_errmsg(-1));
    if (header.sh_type == SHT_NOBITS) continue;
    require_inside("section " + std::to_string(elf_ndxscn(section)), header.sh_offset,
                   header.sh_size, file_size);
    if (header.sh_type == SHT_NOTE) found.push_back(section);
  }
  return found;
}

void store(std::optional<std::string>& to, const char* what, std::string_view text) {
  if (to) {
    refuse_as_damaged(std::string(kSection) + " holds " + what + " twice, a library is one plugin");
  }
  to = text;
}

}  // namespace

PluginNotes read_notes(const std::filesystem::path& path) {
  const File file(path);
  const std::uint64_t file_size = file.size();
  const Elf64_Ehdr header = read_header(file, file_size);
  check_segments(file, header, file_size);
  check_section_table(header, file_size);

  elf_version(EV_CURRENT);
  // ELF_C_READ rather than its mapping kin: a file that shrinks while it is mapped raises SIGBUS.
  const std::unique_ptr<Elf, decltype(&elf_end)> elf(
      elf_begin(file.descriptor(), ELF_C_READ, nullptr), &elf_end);
  std::size_t names = 0;
  if (!elf || elf_getshdrstrndx(elf.get(), &names) != 0) refuse_as_damaged(elf_errmsg(-1));

  bool found = false;
  std::optional<std::string> facts, manifest;
  for (Elf_Scn* section : note_sections(elf.get(), file_size)) {
    GElf_Shdr section_header{};
    gelf_getshdr(section, &section_header);
    const char* name = elf_strptr(elf.get(), names, section_header.sh_name);
    if (name == nullptr || name != kSection) continue;
    found = true;
    if (section_header.sh_size > kMaximumSize) {
      refuse(std::string(kSection) + " is " + std::to_string(section_header.sh_size) +
                 " bytes long, at most " + std::to_string(kMaximumSize) + " are allowed",
             "shorten the manifest");
    }
    Elf_Data* data = elf_getdata(section, nullptr);
    if (data == nullptr) refuse_as_damaged(elf_errmsg(-1));
    for (std::size_t at = 0; at < data->d_size;) {
      GElf_Nhdr note{};
      std::size_t owner_at = 0, text_at = 0;
      at = gelf_getnote(data, at, &note, &owner_at, &text_at);
      if (at == 0) refuse_as_damaged(std::string(kSection) + " is cut short");
      const char* bytes = static_cast<const char*>(data->d_buf);
      if (std::string_view(bytes + owner_at, note.n_namesz) != kOwner) continue;
      const std::string_view text(bytes + text_at, note.n_descsz);
      if (note.n_type == 1) store(facts, "the build's facts", text);
      if (note.n_type == 2) store(manifest, "a manifest", text);
    }
  }
  if (!found) refuse_as_foreign("it has no " + std::string(kSection) + " section");
  if (!facts) refuse_as_foreign(std::string(kSection) + " does not hold the build's facts");
  if (!manifest) refuse_as_foreign(std::string(kSection) + " does not hold a manifest");
  return {*std::move(facts), *std::move(manifest)};
}

}  // namespace backstop::host
