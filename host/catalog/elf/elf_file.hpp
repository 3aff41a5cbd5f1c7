// A shared library for this machine, opened only to be read, never mapped or run. The file may be
// anything: half-copied, a directory, or malicious.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <elf.h>
#include <libelf.h>

namespace backstop::catalog {

/// Throws HostError(plugin): the file was a plugin once, or would be one if it were whole.
[[noreturn]] void refuse_as_damaged(const std::string& why);

/// Throws HostError(plugin) "file is truncated" unless `what` ends inside the file.
void require_inside(const std::string& what, std::uint64_t offset, std::uint64_t size,
                    std::uint64_t file_size);

class ElfFile {
 public:
  /// Throws HostError(plugin) that says what is wrong with the file, without naming it, unless it
  /// is an ELF shared library for this machine whose segments and sections all end inside the file.
  explicit ElfFile(const std::filesystem::path& path);

  [[nodiscard]] const std::vector<Elf64_Phdr>& segments() const { return segments_; }
  [[nodiscard]] const std::vector<Elf64_Shdr>& sections() const { return sections_; }
  [[nodiscard]] Elf* elf() const { return elf_.get(); }
  /// Throws HostError(plugin) when the file ends before `size` bytes were read.
  void read(void* to, std::size_t size, std::uint64_t offset) const;

 private:
  struct Descriptor {
    explicit Descriptor(const std::filesystem::path& path);
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number;
  };

  [[nodiscard]] std::uint64_t file_size() const;
  [[nodiscard]] Elf64_Ehdr read_header(std::uint64_t file_size) const;
  void read_segments(const Elf64_Ehdr& header, std::uint64_t file_size);
  void read_sections(const Elf64_Ehdr& header, std::uint64_t file_size);

  Descriptor descriptor_;
  std::vector<Elf64_Phdr> segments_;
  std::vector<Elf64_Shdr> sections_;
  std::unique_ptr<Elf, decltype(&elf_end)> elf_{nullptr, &elf_end};
};

/// Throws HostError(plugin): the file is whole, but not the product of a plugin's build.
[[noreturn]] void refuse_as_foreign(const std::string& why);

}  // namespace backstop::catalog
