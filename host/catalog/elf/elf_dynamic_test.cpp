#include "host/catalog/elf/elf_dynamic.hpp"

#include <csignal>
#include <cstring>
#include <random>

#include <dlfcn.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "host/base/error.hpp"
#include "tests/support/test_folder.hpp"

namespace backstop::catalog {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::StartsWith;

constexpr std::uint64_t kNowhere = 0x7000000;

template <typename T>
T get(const std::string& bytes, std::uint64_t at) {
  T value{};
  std::memcpy(&value, &bytes.at(at + sizeof value - 1) - (sizeof value - 1), sizeof value);
  return value;
}
template <typename T>
void put(std::string& bytes, std::uint64_t at, const T& value) {
  std::memcpy(&bytes.at(at + sizeof value - 1) - (sizeof value - 1), &value, sizeof value);
}

class ElfDynamic : public testing::Test {
 protected:
  /// The error for the plugin after `change` was made to its bytes; empty if there is none.
  template <typename Change>
  std::string refusal_after(Change change) {
    bytes_ = bytes_of(kBadPlugins / "throws-42.so");
    change();
    const fs::path file = folder_.write("plugin.so", bytes_);
    try {
      check_dynamic_section(ElfFile(file));
    } catch (const base::HostError& e) {
      EXPECT_EQ(e.code(), base::ExitCode::plugin);
      EXPECT_NE(e.hint(), "");
      return e.what();
    }
    return {};
  }
  std::string refusal_with(Elf64_Sxword tag, std::uint64_t value) {
    return refusal_after([&] { put(bytes_, entry(tag) + 8, value); });
  }
  std::string refusal_without(Elf64_Sxword tag) {
    return refusal_after([&] { put<Elf64_Sxword>(bytes_, entry(tag), 0x12345); });
  }

  /// The offset of the first program header of `type` in the file.
  [[nodiscard]] std::uint64_t segment(Elf64_Word type) const {
    const auto header = get<Elf64_Ehdr>(bytes_, 0);
    for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
      const std::uint64_t at = header.e_phoff + i * sizeof(Elf64_Phdr);
      if (get<Elf64_Phdr>(bytes_, at).p_type == type) return at;
    }
    throw std::runtime_error("no such segment");
  }
  template <typename Change>
  void change_segment(Elf64_Word type, Change change) {
    auto header = get<Elf64_Phdr>(bytes_, segment(type));
    change(header);
    put(bytes_, segment(type), header);
  }
  /// The offset of the dynamic section's entry `tag` in the file.
  [[nodiscard]] std::uint64_t entry(Elf64_Sxword tag) const {
    const auto dynamic = get<Elf64_Phdr>(bytes_, segment(PT_DYNAMIC));
    for (std::uint64_t at = dynamic.p_offset;; at += sizeof(Elf64_Dyn)) {
      if (get<Elf64_Dyn>(bytes_, at).d_tag == tag) return at;
      if (at > bytes_.size()) throw std::runtime_error("no such entry");
    }
  }
  /// The offset of the table of `tag`, which in all uses below equals its address.
  [[nodiscard]] std::uint64_t table(Elf64_Sxword tag) const {
    return get<Elf64_Dyn>(bytes_, entry(tag)).d_un.d_val;
  }

  TestFolder folder_;
  std::string bytes_;
};

TEST_F(ElfDynamic, FindsNothingWrongWithPlugins) {
  EXPECT_EQ(refusal_after([] {}), "");
  for (const auto& file : fs::directory_iterator(kBadPlugins)) {
    EXPECT_NO_THROW(check_dynamic_section(ElfFile(file.path()))) << file.path();
  }
  EXPECT_NO_THROW(check_dynamic_section(ElfFile(kGoodPlugin)));
}

TEST_F(ElfDynamic, RefusesSegmentsThatCannotBeLoaded) {
  EXPECT_THAT(
      refusal_after([&] { change_segment(PT_LOAD, [](auto& segment) { segment.p_memsz = 1; }); }),
      MatchesRegex("file is damaged: a segment of [0-9]+ bytes would occupy 1 bytes of "
                   "memory at 0x0"));
  EXPECT_THAT(refusal_after([&] {
                change_segment(PT_LOAD, [](auto& segment) { segment.p_memsz = 1 << 30; });
              }),
              MatchesRegex("file is damaged: the segment at address 0x[0-9a-f]+ overlaps the one "
                           "before it"));
  EXPECT_THAT(refusal_after([&] {
                change_segment(PT_GNU_RELRO, [](auto& segment) { segment.p_memsz = 1 << 30; });
              }),
              StartsWith("file is damaged: a segment of type 0x6474e552 points to address 0x"));
  const auto forget = [](auto& segment) { segment.p_type = PT_NULL; };
  EXPECT_EQ(refusal_after([&] { change_segment(PT_DYNAMIC, forget); }),
            "file is damaged: it has no dynamic section");
  EXPECT_EQ(refusal_after([&] {
              for (int i = 0; i < 4; ++i) change_segment(PT_LOAD, forget);
            }),
            "file is damaged: it has no segment to load");
}

TEST_F(ElfDynamic, RefusesTablesThatPointNowhere) {
  for (const auto& [tag, name] :
       {std::pair{DT_STRTAB, "DT_STRTAB"}, std::pair{DT_GNU_HASH, "DT_GNU_HASH"},
        std::pair{DT_VERNEED, "DT_VERNEED"}, std::pair{DT_VERSYM, "DT_VERSYM"},
        std::pair{DT_RELA, "DT_RELA"}, std::pair{DT_JMPREL, "DT_JMPREL"},
        std::pair{DT_INIT_ARRAY, "DT_INIT_ARRAY"}, std::pair{DT_FINI, "DT_FINI"}}) {
    EXPECT_EQ(refusal_with(tag, kNowhere),
              std::string("file is damaged: ") + name +
                  " points to address 0x7000000, where nothing of the file is loaded");
  }
  EXPECT_EQ(refusal_with(DT_SYMTAB, kNowhere),
            "file is damaged: DT_SYMTAB is 0x7000000, where there is no section .dynsym");
}

TEST_F(ElfDynamic, RefusesTablesOfImpossibleSize) {
  EXPECT_EQ(refusal_with(DT_STRSZ, ~std::uint64_t{0}),
            "file is damaged: DT_STRTAB has 18446744073709551615 entries");
  EXPECT_THAT(refusal_with(DT_RELASZ, 1 << 20), StartsWith("file is damaged: DT_RELA points to "));
  EXPECT_EQ(refusal_with(DT_SYMENT, 23), "file is damaged: DT_SYMENT is 23, expected 24");
  EXPECT_EQ(refusal_with(DT_RELAENT, 0), "file is damaged: DT_RELAENT is 0, expected 24");
  EXPECT_EQ(refusal_with(DT_PLTREL, DT_REL), "file is damaged: DT_PLTREL is 17, expected 7");
  EXPECT_EQ(refusal_with(DT_STRSZ, 1), "file is damaged: DT_NEEDED is string " +
                                           std::to_string(table(DT_NEEDED)) +
                                           ", but the string table has only 1 bytes");
}

TEST_F(ElfDynamic, RefusesIncompleteDynamicSections) {
  EXPECT_EQ(refusal_without(DT_STRSZ), "file is damaged: its dynamic section has no DT_STRSZ");
  EXPECT_EQ(refusal_without(DT_RELASZ), "file is damaged: its dynamic section has no DT_RELASZ");
  EXPECT_EQ(refusal_without(DT_JMPREL), "file is damaged: its dynamic section has no DT_JMPREL");
  EXPECT_EQ(refusal_without(DT_VERSYM), "file is damaged: its dynamic section has no DT_VERSYM");
  EXPECT_EQ(refusal_without(DT_INIT_ARRAYSZ),
            "file is damaged: its dynamic section has no DT_INIT_ARRAYSZ");
  EXPECT_EQ(refusal_without(DT_GNU_HASH), "it has no GNU hash table of symbols (DT_GNU_HASH)");
}

TEST_F(ElfDynamic, RefusesStringsWithoutAnEnd) {
  EXPECT_EQ(refusal_after([&] { bytes_[table(DT_STRTAB) + table(DT_STRSZ) - 1] = 'x'; }),
            "file is damaged: its string table does not end with a zero byte");
}

TEST_F(ElfDynamic, RefusesSymbolsThatPointNowhere) {
  EXPECT_THAT(refusal_after([&] { put<Elf64_Word>(bytes_, table(DT_SYMTAB) + 24, 1 << 20); }),
              StartsWith("file is damaged: a symbol is string 1048576, but the string table has only "));
}

TEST_F(ElfDynamic, RefusesInconsistentHashTables) {
  EXPECT_THAT(refusal_after([&] { put<std::uint32_t>(bytes_, table(DT_GNU_HASH) + 8, 3); }),
              StartsWith("file is damaged: DT_GNU_HASH has a filter of 3 words, shifted by "));
  const auto bucket = [&] { return table(DT_GNU_HASH) + 16 + 8; };
  EXPECT_THAT(refusal_after([&] { put<std::uint32_t>(bytes_, bucket(), 4000); }),
              StartsWith("file is damaged: DT_GNU_HASH names symbol 4000, expected "));
  EXPECT_EQ(
      refusal_after([&] { bytes_[bucket() + 8] = static_cast<char>(bytes_[bucket() + 8] & 254); }),
      "file is damaged: DT_GNU_HASH has no end");
}

TEST_F(ElfDynamic, RefusesVersionsWithoutAName) {
  EXPECT_THAT(refusal_after([&] { put<Elf64_Half>(bytes_, table(DT_VERSYM) + 2, 99); }),
              StartsWith("file is damaged: DT_VERSYM names version 99, but the last one is "));
  EXPECT_THAT(refusal_after([&] { put<Elf64_Word>(bytes_, table(DT_VERNEED) + 4, 0); }),
              HasSubstr("DT_VERNEED names library ``, but no DT_NEEDED does"));
}

TEST_F(ElfDynamic, RefusesRelocationsThatPointNowhere) {
  EXPECT_EQ(refusal_after([&] { put<Elf64_Addr>(bytes_, table(DT_RELA), kNowhere); }),
            "file is damaged: DT_RELA points to address 0x7000000, where nothing of the file is "
            "loaded");
  // The text segment is loaded, but is not writable.
  EXPECT_THAT(refusal_after([&] { put<Elf64_Addr>(bytes_, table(DT_RELA), table(DT_INIT)); }),
              StartsWith("file is damaged: DT_RELA points to address 0x"));
  EXPECT_THAT(refusal_after([&] { put<std::uint32_t>(bytes_, table(DT_JMPREL) + 12, 4000); }),
              StartsWith("file is damaged: DT_JMPREL names symbol 4000 of "));
  EXPECT_THAT(refusal_with(DT_RELACOUNT, 4000),
              MatchesRegex("file is damaged: relocation [0-9]+ is not among the [0-9]+ relative "
                           "ones of DT_RELACOUNT"));
}

TEST_F(ElfDynamic, RefusesConstructorsThatAreNotCode) {
  // The first relocation belongs to the first constructor.
  EXPECT_EQ(refusal_after([&] { put<std::uint64_t>(bytes_, table(DT_RELA) + 16, kNowhere); }),
            "file is damaged: DT_INIT_ARRAY points to address 0x7000000, where nothing of the file "
            "is loaded");
  EXPECT_EQ(refusal_after([&] { put<std::uint32_t>(bytes_, table(DT_RELA) + 8, 0); }),
            "file is damaged: relocation 0 is not among the " +
                std::to_string(table(DT_RELACOUNT)) + " relative ones of DT_RELACOUNT");
  EXPECT_EQ(refusal_with(DT_INIT_ARRAY, table(DT_PLTGOT)),
            "file is damaged: DT_INIT_ARRAY holds an address that nothing relocates");
}

#ifndef __SANITIZE_ADDRESS__  // there a crash is an exit
/// How a process that loads the file ends.
int status_of_loading(const fs::path& file) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    ::alarm(20);
    ::_exit(::dlopen(file.c_str(), RTLD_NOW) != nullptr ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST_F(ElfDynamic, LoadingAFileThatPassesHardlyEverKillsTheProcess) {
  const std::string whole = bytes_of(kBadPlugins / "throws-42.so");
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places = {{0, 64}};
  {
    const ElfFile file(kBadPlugins / "throws-42.so");
    places.emplace_back(64, file.segments().size() * sizeof(Elf64_Phdr));
    for (const Elf64_Shdr& section : file.sections()) {
      const bool code_or_data = section.sh_type == SHT_PROGBITS || section.sh_type == SHT_NOBITS;
      if ((section.sh_flags & SHF_ALLOC) == 0 || code_or_data || section.sh_size == 0) continue;
      places.emplace_back(section.sh_offset, section.sh_size);
    }
  }
  std::mt19937 random(20240229);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  int refused = 0, loaded = 0, killed = 0;
  for (int i = 0; i < 400; ++i) {
    bytes_ = whole;
    const auto& [begin, size] = places[below(places.size())];
    const std::uint64_t values[] = {0, ~std::uint64_t{0}, std::uint64_t{1} << below(64), random(),
                                    below(whole.size())};
    put(bytes_, begin + below(size) / 4 * 4, values[below(5)]);
    // A new file each time, because the linker remembers those that it has loaded.
    const fs::path path = folder_.write("mutant-" + std::to_string(i) + ".so", bytes_);
    try {
      check_dynamic_section(ElfFile(path));
    } catch (const base::HostError&) {
      ++refused;
      continue;
    }
    const int status = status_of_loading(path);
    killed += WIFSIGNALED(status) ? 1 : 0;
    loaded += status == 0 ? 1 : 0;
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(loaded, 50);
  EXPECT_LE(killed, 4) << "without the check it is a third";
}
#endif

}  // namespace
}  // namespace backstop::catalog
