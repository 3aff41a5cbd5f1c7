#include "host/catalog/elf/elf_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/stat.h>

#include "host/base/error.hpp"

namespace backstop::catalog {
namespace {

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#else
#error "name this machine's ELF number here"
#endif

constexpr const char* kBuildHere = "build the plugin on this machine";
constexpr const char* kCopyAgain = "build or copy the plugin again";
constexpr const char* kMakeReadable = "see that the file is there, and that you may read it";

[[noreturn]] void refuse(const std::string& why, const std::string& hint) {
  throw base::HostError(base::ExitCode::plugin, why, hint);
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
      return fmt::format("ELF machine {}", machine);
  }
}

[[noreturn]] void refuse_unopened(const std::filesystem::path& path, int error) {
  std::error_code ignored;
  if (error == ENOENT && std::filesystem::is_symlink(path, ignored)) {
    refuse(fmt::format("dangling link: it points to {}, which does not exist",
                       std::filesystem::read_symlink(path, ignored).string()),
           "remove the link, or make it point to a plugin");
  }
  refuse(fmt::format("cannot be opened: {}", error_text(error)), kMakeReadable);
}

}  // namespace

void refuse_as_damaged(const std::string& why) {
  refuse(fmt::format("file is damaged: {}", why), kCopyAgain);
}

void refuse_as_foreign(const std::string& why) {
  refuse(fmt::format("not a Backstop plugin: {}", why), "build it with backstop_add_plugin()");
}

void require_inside(const std::string& what, std::uint64_t offset, std::uint64_t size,
                    std::uint64_t file_size) {
  std::uint64_t end = 0;
  if (__builtin_add_overflow(offset, size, &end)) end = std::numeric_limits<std::uint64_t>::max();
  if (end > file_size) {
    refuse(fmt::format("file is truncated: {} ends at byte {}, but the file has only {}", what, end,
                       file_size),
           kCopyAgain);
  }
}

ElfFile::Descriptor::Descriptor(const std::filesystem::path& path)
    // O_NONBLOCK: opening a FIFO must not wait for its writer.
    : number(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  if (number < 0) refuse_unopened(path, errno);
}

ElfFile::Descriptor::~Descriptor() {
  ::close(number);
}

ElfFile::ElfFile(const std::filesystem::path& path) : descriptor_(path) {
  const std::uint64_t size = file_size();
  const Elf64_Ehdr header = read_header(size);
  read_segments(header, size);
  read_sections(header, size);
  elf_version(EV_CURRENT);
  // ELF_C_READ rather than ELF_C_READ_MMAP: a file that shrinks while it is mapped raises SIGBUS.
  elf_.reset(elf_begin(descriptor_.number, ELF_C_READ, nullptr));
  if (!elf_) refuse_as_damaged(elf_errmsg(-1));
}

void ElfFile::read(void* to, std::size_t size, std::uint64_t offset) const {
  const ssize_t got = ::pread(descriptor_.number, to, size, static_cast<off_t>(offset));
  if (got < 0) refuse(fmt::format("cannot be read: {}", error_text(errno)), kMakeReadable);
  if (static_cast<std::size_t>(got) != size) refuse_as_damaged("it shrank while it was read");
}

std::uint64_t ElfFile::file_size() const {
  constexpr const char* kRemove = "remove it from the plugin folder";
  struct stat status {};
  if (::fstat(descriptor_.number, &status) != 0)
    refuse(fmt::format("cannot be read: {}", error_text(errno)), kMakeReadable);
  if (S_ISDIR(status.st_mode)) refuse("not a regular file but a directory", kRemove);
  if (S_ISFIFO(status.st_mode)) refuse("not a regular file but a FIFO", kRemove);
  if (!S_ISREG(status.st_mode)) refuse("not a regular file but a device", kRemove);
  return static_cast<std::uint64_t>(status.st_size);
}

Elf64_Ehdr ElfFile::read_header(std::uint64_t file_size) const {
  if (file_size == 0) refuse("file is empty", kCopyAgain);
  Elf64_Ehdr header{};
  const auto available =
      static_cast<std::size_t>(std::min<std::uint64_t>(file_size, sizeof header));
  read(&header, available, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) refuse_as_foreign("not an ELF file");
  require_inside("the ELF header", 0, sizeof header, file_size);
  if (header.e_ident[EI_CLASS] != ELFCLASS64) {
    refuse(fmt::format("a library of ELF class {}, but this host is 64-bit (class 2)",
                       header.e_ident[EI_CLASS]),
           kBuildHere);
  }
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) {
    refuse(fmt::format("a library of ELF byte order {}, but this host is little-endian (1)",
                       header.e_ident[EI_DATA]),
           kBuildHere);
  }
  if (header.e_machine != kMachine) {
    refuse(fmt::format("built for {}, but this host is {}", machine_name(header.e_machine),
                       machine_name(kMachine)),
           kBuildHere);
  }
  if (header.e_type != ET_DYN) {
    refuse_as_foreign(
        fmt::format("its ELF type is {}, not that of a shared library (3)", header.e_type));
  }
  return header;
}

void ElfFile::read_segments(const Elf64_Ehdr& header, std::uint64_t file_size) {
  if (header.e_phnum != 0 && header.e_phentsize != sizeof(Elf64_Phdr)) {
    refuse_as_damaged(fmt::format("a program header is {} bytes long, expected {}",
                                  header.e_phentsize, sizeof(Elf64_Phdr)));
  }
  segments_.resize(header.e_phnum);
  const std::size_t size = segments_.size() * sizeof(Elf64_Phdr);
  require_inside("the program header table", header.e_phoff, size, file_size);
  read(segments_.data(), size, header.e_phoff);
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    require_inside(fmt::format("segment {}", i), segments_[i].p_offset, segments_[i].p_filesz,
                   file_size);
  }
}

void ElfFile::read_sections(const Elf64_Ehdr& header, std::uint64_t file_size) {
  // Where e_shnum is 0, section 0 may hold the count instead: no plugin has that many.
  if (header.e_shnum == 0) refuse_as_foreign("it has no sections");
  if (header.e_shentsize != sizeof(Elf64_Shdr)) {
    refuse_as_damaged(fmt::format("a section header is {} bytes long, expected {}",
                                  header.e_shentsize, sizeof(Elf64_Shdr)));
  }
  sections_.resize(header.e_shnum);
  const std::size_t size = sections_.size() * sizeof(Elf64_Shdr);
  require_inside("the section header table", header.e_shoff, size, file_size);
  read(sections_.data(), size, header.e_shoff);
  for (std::size_t i = 0; i < sections_.size(); ++i) {
    if (sections_[i].sh_type == SHT_NOBITS) continue;
    require_inside(fmt::format("section {}", i), sections_[i].sh_offset, sections_[i].sh_size,
                   file_size);
  }
}

}  // namespace backstop::catalog
