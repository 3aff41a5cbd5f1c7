#include "host/catalog/elf/elf_note.hpp"

#include <cstring>
#include <random>
#include <vector>

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "host/base/error.hpp"
#include "host/catalog/build_facts.hpp"
#include "host/catalog/manifest.hpp"
#include "tests/support/test_folder.hpp"

namespace backstop::catalog {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

/// The error of read_notes for the file; empty if there is none.
std::string refusal(const fs::path& file) {
  try {
    read_notes(file);
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::plugin);
    return e.what();
  }
  return {};
}

Elf64_Ehdr header_of(const std::string& bytes) {
  Elf64_Ehdr header{};
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

class ElfNote : public testing::Test {
 protected:
  /// The refusal of the good plugin after `change` was made to its bytes.
  template <typename Change>
  std::string refusal_after(Change change) const {
    std::string bytes = bytes_of(kGoodPlugin);
    change(bytes);
    return refusal(folder_.write("plugin.so", bytes));
  }
  template <typename Change>
  std::string refusal_after_header(Change change) const {
    return refusal_after([&](std::string& bytes) {
      Elf64_Ehdr header = header_of(bytes);
      change(header);
      std::memcpy(bytes.data(), &header, sizeof header);
    });
  }
  /// The refusal of a plugin after the header of its .note.backstop section was changed.
  template <typename Change>
  std::string refusal_after_note_section(Change change) const {
    return refusal_after([&](std::string& bytes) {
      const Elf64_Ehdr header = header_of(bytes);
      const auto section = [&](std::size_t i) {
        Elf64_Shdr result{};
        std::memcpy(&result, &bytes[header.e_shoff + i * sizeof result], sizeof result);
        return result;
      };
      const Elf64_Shdr names = section(header.e_shstrndx);
      for (std::size_t i = 0; i < header.e_shnum; ++i) {
        Elf64_Shdr found = section(i);
        if (&bytes[names.sh_offset + found.sh_name] != std::string_view(".note.backstop")) continue;
        change(found, bytes);
        std::memcpy(&bytes[header.e_shoff + i * sizeof found], &found, sizeof found);
      }
    });
  }

  TestFolder folder_;
};

TEST_F(ElfNote, ReadsBothNotes) {
  const PluginNotes notes = read_notes(kGoodPlugin);
  EXPECT_THAT(notes.build_facts, StartsWith("abi = \""));
  EXPECT_THAT(notes.manifest, HasSubstr("name = \"constant\"\nkind = \"scheduler\"\n"));
}

TEST_F(ElfNote, ReadsThroughALink) {
  fs::create_symlink(kGoodPlugin, folder_.path() / "link.so");
  EXPECT_EQ(refusal(folder_.path() / "link.so"), "");
}

TEST_F(ElfNote, NamesFilesThatAreNotRegular) {
  fs::create_directory(folder_.path() / "folder.so");
  EXPECT_EQ(refusal(folder_.path() / "folder.so"), "not a regular file but a directory");
  EXPECT_EQ(refusal("/dev/null"), "not a regular file but a device");
}

TEST_F(ElfNote, DoesNotWaitForAFifo) {
  const fs::path fifo = folder_.path() / "fifo.so";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(refusal(fifo), "not a regular file but a FIFO");
}

TEST_F(ElfNote, RefusesFilesThatCannotBeOpened) {
  const fs::path dangling = folder_.path() / "dangling.so", loop = folder_.path() / "loop.so";
  fs::create_symlink("nowhere.so", dangling);
  fs::create_symlink("loop.so", loop);
  EXPECT_EQ(refusal(dangling), "dangling link: it points to nowhere.so, which does not exist");
  EXPECT_EQ(refusal(loop), "cannot be opened: Too many levels of symbolic links");
  EXPECT_EQ(refusal(folder_.path() / "none.so"), "cannot be opened: No such file or directory");
}

TEST_F(ElfNote, RefusesUnreadableFile) {
  if (::geteuid() == 0) GTEST_SKIP() << "root reads everything";
  const fs::path file = folder_.write("secret.so", "text");
  fs::permissions(file, fs::perms::none);
  EXPECT_EQ(refusal(file), "cannot be opened: Permission denied");
}

TEST_F(ElfNote, RefusesFilesThatAreNotElf) {
  EXPECT_EQ(refusal(folder_.write("empty.so", "")), "file is empty");
  EXPECT_EQ(refusal(folder_.write("text.so", "INPUT(libm.so)\n")),
            "not a Backstop plugin: not an ELF file");
  EXPECT_EQ(refusal(folder_.write("tiny.so", "\x7f")), "not a Backstop plugin: not an ELF file");
}

TEST_F(ElfNote, RefusesOtherMachines) {
  EXPECT_EQ(refusal_after_header([](auto& h) { h.e_ident[EI_CLASS] = ELFCLASS32; }),
            "a library of ELF class 1, but this host is 64-bit (class 2)");
  EXPECT_EQ(refusal_after_header([](auto& h) { h.e_ident[EI_DATA] = ELFDATA2MSB; }),
            "a library of ELF byte order 2, but this host is little-endian (1)");
  EXPECT_THAT(refusal_after_header([](auto& h) { h.e_machine = EM_RISCV; }),
              StartsWith("built for ELF machine 243, but this host is "));
  EXPECT_EQ(refusal_after_header([](auto& h) { h.e_type = ET_REL; }),
            "not a Backstop plugin: its ELF type is 1, not that of a shared library (3)");
}

TEST_F(ElfNote, NamesTheSegmentThatIsCutOff) {
  const std::string whole = bytes_of(kGoodPlugin);
  EXPECT_EQ(refusal(folder_.write("cut.so", std::string_view(whole).substr(0, 20))),
            "file is truncated: the ELF header ends at byte 64, but the file has only 20");
  EXPECT_THAT(refusal(folder_.write("cut.so", std::string_view(whole).substr(0, 200))),
              StartsWith("file is truncated: the program header table ends at byte "));
  EXPECT_THAT(refusal(folder_.write("cut.so", std::string_view(whole).substr(0, 4096))),
              testing::MatchesRegex("file is truncated: segment [0-9]+ ends at byte [0-9]+, "
                                    "but the file has only 4096"));
  EXPECT_THAT(refusal(folder_.write("cut.so", std::string_view(whole).substr(0, whole.size() - 1))),
              StartsWith("file is truncated: the section header table ends at byte "));
}

TEST_F(ElfNote, RefusesSizesThatOverflow) {
  EXPECT_THAT(refusal_after_header([](auto& h) { h.e_phoff = ~Elf64_Off{0} - 8; }),
              StartsWith("file is truncated: the program header table ends at byte 1844674407"));
  EXPECT_THAT(refusal_after_note_section([](auto& s, auto&) { s.sh_offset = ~Elf64_Off{0}; }),
              testing::MatchesRegex("file is truncated: section [0-9]+ ends at byte 1844.*"));
}

TEST_F(ElfNote, RefusesTablesWithOtherEntrySizes) {
  EXPECT_EQ(refusal_after_header([](auto& h) { h.e_phentsize = 8; }),
            "file is damaged: a program header is 8 bytes long, expected 56");
  EXPECT_EQ(refusal_after_header([](auto& h) { h.e_shentsize = 8; }),
            "file is damaged: a section header is 8 bytes long, expected 64");
  EXPECT_EQ(refusal_after_header([](auto& h) { h.e_shnum = 0; }),
            "not a Backstop plugin: it has no sections");
}

TEST_F(ElfNote, RefusesTruncationAnywhere) {
  const fs::path file = folder_.copy(kGoodPlugin, "cut.so");
  const std::uintmax_t whole = fs::file_size(file);
  for (std::uintmax_t size = whole - 1; size > 0; size -= std::min<std::uintmax_t>(size, 61)) {
    fs::resize_file(file, size);
    ASSERT_NE(refusal(file), "") << "cut to " << size << " of " << whole << " bytes";
  }
}

TEST_F(ElfNote, RefusesALibraryWithoutANote) {
  EXPECT_EQ(refusal(kBadPlugins / "no-note.so"),
            "not a Backstop plugin: it has no .note.backstop section");
  EXPECT_EQ(refusal(kBadPlugins / "no-manifest.so"),
            "not a Backstop plugin: .note.backstop does not hold a manifest");
}

TEST_F(ElfNote, RefusesALargeNote) {
  const auto enlarge = [](Elf64_Shdr& section, std::string& bytes) {
    section.sh_size = 65537;
    bytes.resize(bytes.size() + section.sh_size);
  };
  EXPECT_EQ(refusal_after_note_section(enlarge),
            ".note.backstop is 65537 bytes long; at most 65536 are allowed");
}

TEST_F(ElfNote, RefusesANoteThatIsCutShort) {
  EXPECT_EQ(refusal_after_note_section([](auto& section, auto&) { section.sh_size -= 4; }),
            "file is damaged: .note.backstop is cut short");
}

TEST_F(ElfNote, RefusesTwoPluginsInOneLibrary) {
  const auto second_becomes_first = [](const Elf64_Shdr& section, std::string& bytes) {
    Elf64_Nhdr note{};
    std::memcpy(&note, &bytes[section.sh_offset], sizeof note);
    const std::size_t name_and_text = 12 + (note.n_descsz + 3) / 4 * 4;
    bytes[section.sh_offset + sizeof note + name_and_text + 8] = 1;
  };
  EXPECT_EQ(
      refusal_after_note_section(second_becomes_first),
      "file is damaged: .note.backstop holds the build's facts twice, but a library is one plugin");
}

TEST_F(ElfNote, SkipsNotesOfOtherOwners) {
  const auto rename_owner = [](const Elf64_Shdr& section, std::string& bytes) {
    bytes[section.sh_offset + sizeof(Elf64_Nhdr)] = 'X';
  };
  EXPECT_EQ(refusal_after_note_section(rename_owner),
            "not a Backstop plugin: .note.backstop does not hold the build's facts");
}

/// Whatever the bytes are, the result is notes or a HostError.
TEST_F(ElfNote, SurvivesMutations) {
  const std::string whole = bytes_of(kGoodPlugin);
  const fs::path path = folder_.write("mutant.so", whole);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(file, 0);
  const Elf64_Ehdr header = header_of(whole);
  std::mt19937 random(20240229);
  const auto below = [&](std::size_t limit) { return random() % limit; };
  const auto put = [&](std::size_t at, const void* bytes, std::size_t size) {
    ASSERT_EQ(::pwrite(file, bytes, size, static_cast<off_t>(at)), static_cast<ssize_t>(size));
  };
  int refused = 0, read = 0;
  for (int i = 0; i < 4000; ++i) {
    std::vector<std::size_t> places;
    for (std::size_t k = 0, count = 1 + below(4); k < count; ++k) {
      // Mostly in headers, notes and section headers; sometimes anywhere.
      const std::size_t places_of_interest[] = {
          below(sizeof header), below(0x500),
          header.e_shoff + below(header.e_shnum * sizeof(Elf64_Shdr)), below(whole.size())};
      const std::size_t at = std::min(places_of_interest[below(4)], whole.size() - 8);
      const std::uint64_t values[] = {0, ~std::uint64_t{0}, std::uint64_t{1} << below(64), random(),
                                      whole.size() - below(16)};
      const std::size_t sizes[] = {1, 2, 4, 8};
      put(at, &values[below(5)], sizes[below(4)]);
      places.push_back(at);
    }
    try {
      const PluginNotes notes = read_notes(path);
      ++read;
      parse_build_facts(notes.build_facts, "facts");
      parse_manifest(notes.manifest, "manifest");
    } catch (const base::HostError& e) {
      ++refused;
      ASSERT_EQ(e.code(), base::ExitCode::plugin);
    }
    for (const std::size_t at : places) put(at, &whole[at], 8);
  }
  ::close(file);
  EXPECT_GT(refused, 500);
  EXPECT_GT(read, 500);
  EXPECT_EQ(bytes_of(path), whole);
}

TEST_F(ElfNote, SurvivesRandomBytesAfterAGoodHeader) {
  std::mt19937 random(7);
  const std::string header = bytes_of(kGoodPlugin).substr(0, sizeof(Elf64_Ehdr));
  for (int i = 0; i < 60; ++i) {
    std::string bytes(random() % 8192, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    EXPECT_NE(refusal(folder_.write("random.so", bytes)), "");
    EXPECT_NE(refusal(folder_.write("random.so", header + bytes)), "");
  }
}

}  // namespace
}  // namespace backstop::catalog
