#include "host/catalog/elf/elf_dynamic.hpp"

#include <algorithm>
#include <bit>
#include <map>
#include <optional>
#include <string_view>
#include <type_traits>

#include <fmt/format.h>

#include "host/base/error.hpp"

namespace backstop::catalog {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kRelative = R_X86_64_RELATIVE;
constexpr std::uint32_t kIndirectRelative = R_X86_64_IRELATIVE;
#elif defined(__aarch64__)
constexpr std::uint32_t kRelative = R_AARCH64_RELATIVE;
constexpr std::uint32_t kIndirectRelative = R_AARCH64_IRELATIVE;
#else
#error "name this machine's relocations here"
#endif

constexpr Elf64_Sxword kPackedRelocations = 36;  // DT_RELR, which elf.h has from glibc 2.36 on

/// More than any plugin has, and little enough to read. Only the lists of versions could send a
/// reader round in circles.
constexpr std::uint64_t kMaximumTable = std::uint64_t{1} << 30;
constexpr int kMaximumVersions = 10'000;

[[noreturn]] void refuse_address(const std::string& what, std::uint64_t address) {
  refuse_as_damaged(fmt::format("{} points to address {:#x}, where nothing of the file is loaded",
                                what, address));
}

/// The library as it will be in memory.
class Image {
 public:
  explicit Image(const ElfFile& file) : file_(file) {
    for (const Elf64_Phdr& segment : file.segments()) {
      if (segment.p_type == PT_LOAD) add(segment);
    }
    if (loaded_.empty()) refuse_as_damaged("it has no segment to load");
  }

  /// Whether all `size` bytes at `address` lie in one loaded segment that has the `flags`.
  [[nodiscard]] bool holds(std::uint64_t address, std::uint64_t size, Elf64_Word flags = 0) const {
    return std::any_of(loaded_.begin(), loaded_.end(), [&](const Elf64_Phdr& segment) {
      return (segment.p_flags & flags) == flags &&
             inside(address, size, segment.p_vaddr, segment.p_memsz);
    });
  }
  [[nodiscard]] bool is_code(std::uint64_t address) const {
    return std::any_of(loaded_.begin(), loaded_.end(), [&](const Elf64_Phdr& segment) {
      return (segment.p_flags & PF_X) != 0 && inside(address, 1, segment.p_vaddr, segment.p_filesz);
    });
  }

  /// The `count` entries of a table at `address`.
  template <typename Entry>
  [[nodiscard]] std::vector<Entry> table(const std::string& what, std::uint64_t address,
                                         std::uint64_t count) const {
    static_assert(std::is_trivially_copyable_v<Entry>);
    std::uint64_t size = 0;
    if (__builtin_mul_overflow(count, sizeof(Entry), &size) || size > kMaximumTable) {
      refuse_as_damaged(fmt::format("{} has {} entries", what, count));
    }
    for (const Elf64_Phdr& segment : loaded_) {
      if (!inside(address, size, segment.p_vaddr, segment.p_filesz)) continue;
      std::vector<Entry> entries(count);
      file_.read(entries.data(), size, segment.p_offset + (address - segment.p_vaddr));
      return entries;
    }
    refuse_address(what, address);
  }
  template <typename Entry>
  [[nodiscard]] Entry one(const std::string& what, std::uint64_t address) const {
    return table<Entry>(what, address, 1).front();
  }

 private:
  static bool inside(std::uint64_t address, std::uint64_t size, std::uint64_t begin,
                     std::uint64_t length) {
    return address >= begin && size <= length && address - begin <= length - size;
  }

  void add(const Elf64_Phdr& segment) {
    constexpr std::uint64_t kAddresses = std::uint64_t{1} << 47;
    if (segment.p_filesz > segment.p_memsz || segment.p_vaddr >= kAddresses ||
        segment.p_memsz >= kAddresses) {
      refuse_as_damaged(
          fmt::format("a segment of {} bytes would occupy {} bytes of memory at {:#x}",
                      segment.p_filesz, segment.p_memsz, segment.p_vaddr));
    }
    if (!loaded_.empty() && segment.p_vaddr < loaded_.back().p_vaddr + loaded_.back().p_memsz) {
      refuse_as_damaged(
          fmt::format("the segment at address {:#x} overlaps the one before it", segment.p_vaddr));
    }
    loaded_.push_back(segment);
  }

  const ElfFile& file_;
  std::vector<Elf64_Phdr> loaded_;
};

/// Checks the segments that the linker reads but does not load by themselves: they must lie inside
/// one that is loaded.
void check_inner_segments(const ElfFile& file, const Image& image) {
  for (const Elf64_Phdr& segment : file.segments()) {
    std::uint64_t size = segment.p_filesz;
    switch (segment.p_type) {
      case PT_PHDR:
      case PT_NOTE:
      case PT_TLS:
      case PT_GNU_PROPERTY:
        break;
      case PT_GNU_RELRO:
        size = segment.p_memsz;  // what becomes read-only once it is relocated
        break;
      default:
        continue;
    }
    if (size != 0 && !image.holds(segment.p_vaddr, size)) {
      refuse_address(fmt::format("a segment of type {:#x}", segment.p_type), segment.p_vaddr);
    }
  }
}

class Dynamic {
 public:
  Dynamic(const ElfFile& file, const Image& image) : file_(file), image_(image) {}

  void check() {
    read_entries();
    read_strings();
    read_symbols();
    check_hash_table();
    check_versions();
    check_relocations();
    check_functions();
  }

 private:
  [[nodiscard]] std::optional<std::uint64_t> find(Elf64_Sxword tag) const {
    const auto found = entries_.find(tag);
    return found == entries_.end() ? std::nullopt : std::optional(found->second);
  }
  [[nodiscard]] std::uint64_t get(Elf64_Sxword tag, const char* name) const {
    if (const auto value = find(tag)) return *value;
    refuse_as_damaged(fmt::format("its dynamic section has no {}", name));
  }
  void require(Elf64_Sxword tag, const char* name, std::uint64_t expected) const {
    if (const std::uint64_t value = get(tag, name); value != expected) {
      refuse_as_damaged(fmt::format("{} is {}, expected {}", name, value, expected));
    }
  }

  void read_entries() {
    const auto& segments = file_.segments();
    const auto segment = std::find_if(segments.begin(), segments.end(),
                                      [](const Elf64_Phdr& s) { return s.p_type == PT_DYNAMIC; });
    if (segment == segments.end()) refuse_as_damaged("it has no dynamic section");
    if (!image_.holds(segment->p_vaddr, segment->p_filesz, PF_W)) {
      refuse_address("its dynamic section", segment->p_vaddr);
    }
    const auto all = image_.table<Elf64_Dyn>("its dynamic section", segment->p_vaddr,
                                             segment->p_filesz / sizeof(Elf64_Dyn));
    const auto end = std::find_if(all.begin(), all.end(),
                                  [](const Elf64_Dyn& entry) { return entry.d_tag == DT_NULL; });
    if (end == all.end()) refuse_as_damaged("its dynamic section has no end");
    for (auto entry = all.begin(); entry != end; ++entry) {
      entries_[entry->d_tag] = entry->d_un.d_val;
      if (entry->d_tag == DT_NEEDED) needed_.push_back(entry->d_un.d_val);
    }
  }

  void read_strings() {
    strings_ =
        image_.table<char>("DT_STRTAB", get(DT_STRTAB, "DT_STRTAB"), get(DT_STRSZ, "DT_STRSZ"));
    if (strings_.empty() || strings_.back() != '\0') {
      refuse_as_damaged("its string table does not end with a zero byte");
    }
    for (const std::uint64_t name : needed_) static_cast<void>(text("DT_NEEDED", name));
    for (const Elf64_Sxword tag : {DT_SONAME, DT_RPATH, DT_RUNPATH, DT_AUXILIARY, DT_FILTER}) {
      if (const auto name = find(tag)) static_cast<void>(text("a name", *name));
    }
  }
  [[nodiscard]] std::string_view text(const char* what, std::uint64_t offset) const {
    if (offset >= strings_.size()) {
      refuse_as_damaged(fmt::format("{} is string {}, but the string table has only {} bytes", what,
                                    offset, strings_.size()));
    }
    return strings_.data() + offset;
  }

  void read_symbols() {
    require(DT_SYMENT, "DT_SYMENT", sizeof(Elf64_Sym));
    const std::uint64_t address = get(DT_SYMTAB, "DT_SYMTAB");
    // The dynamic section does not tell how many symbols there are.
    const auto& sections = file_.sections();
    const auto section = std::find_if(sections.begin(), sections.end(), [&](const auto& s) {
      return s.sh_type == SHT_DYNSYM && s.sh_addr == address;
    });
    if (section == sections.end()) {
      refuse_as_damaged(
          fmt::format("DT_SYMTAB is {:#x}, where there is no section .dynsym", address));
    }
    symbols_ = section->sh_size / sizeof(Elf64_Sym);
    for (const auto& symbol : image_.table<Elf64_Sym>("DT_SYMTAB", address, symbols_)) {
      static_cast<void>(text("a symbol", symbol.st_name));
      const auto type = ELF64_ST_TYPE(symbol.st_info);
      const bool function = type == STT_FUNC || type == STT_GNU_IFUNC;
      if (function && symbol.st_shndx != SHN_UNDEF && !image_.is_code(symbol.st_value)) {
        refuse_address(fmt::format("function {} of the string table", symbol.st_name),
                       symbol.st_value);
      }
    }
  }

  void check_hash_table() const {
    const std::string what = "DT_GNU_HASH";
    const auto address = find(DT_GNU_HASH);
    if (!address) {
      throw base::HostError(base::ExitCode::plugin,
                            "it has no GNU hash table of symbols (DT_GNU_HASH)",
                            "link the plugin with -Wl,--hash-style=gnu");
    }
    struct Header {
      std::uint32_t buckets, first_symbol, filter_words, shift;
    };
    const auto header = image_.one<Header>(what, *address);
    if (!std::has_single_bit(header.filter_words) || header.shift >= 32) {
      refuse_as_damaged(fmt::format("{} has a filter of {} words, shifted by {}", what,
                                    header.filter_words, header.shift));
    }
    const std::uint64_t filter = *address + sizeof(Header);
    static_cast<void>(image_.table<std::uint64_t>(what, filter, header.filter_words));
    const std::uint64_t buckets = filter + std::uint64_t{header.filter_words} * 8;
    bool empty = true;
    for (const auto symbol : image_.table<std::uint32_t>(what, buckets, header.buckets)) {
      if (symbol == 0) continue;
      empty = false;
      if (symbol < header.first_symbol || symbol >= symbols_) {
        refuse_as_damaged(fmt::format("{} names symbol {}, expected {} .. {}", what, symbol,
                                      header.first_symbol, symbols_ - 1));
      }
    }
    if (empty) return;
    const std::uint64_t chains = buckets + std::uint64_t{header.buckets} * 4;
    const auto hashes = image_.table<std::uint32_t>(what, chains, symbols_ - header.first_symbol);
    if ((hashes.back() & 1) == 0) refuse_as_damaged(fmt::format("{} has no end", what));
  }

  void check_versions() {
    std::uint32_t last = 0;  // the highest version that has a name
    const auto name_version = [&](unsigned index, std::uint64_t name) {
      static_cast<void>(text("a version", name));
      last = std::max(last, index & 0x7FFFu);
    };
    if (const auto address = find(DT_VERNEED)) {
      walk<Elf64_Verneed>(
          "DT_VERNEED", *address, &Elf64_Verneed::vn_next, [&](auto& need, auto at) {
            const auto library = text("a version's library", need.vn_file);
            if (std::none_of(needed_.begin(), needed_.end(),
                             [&](std::uint64_t name) { return text("", name) == library; })) {
              refuse_as_damaged(
                  fmt::format("DT_VERNEED names library `{}`, but no DT_NEEDED does", library));
            }
            walk<Elf64_Vernaux>(
                "DT_VERNEED", at + need.vn_aux, &Elf64_Vernaux::vna_next,
                [&](auto& version, auto) { name_version(version.vna_other, version.vna_name); });
          });
    }
    if (const auto address = find(DT_VERDEF)) {
      walk<Elf64_Verdef>(
          "DT_VERDEF", *address, &Elf64_Verdef::vd_next, [&](auto& version, auto at) {
            walk<Elf64_Verdaux>(
                "DT_VERDEF", at + version.vd_aux, &Elf64_Verdaux::vda_next,
                [&](auto& name, auto) { name_version(version.vd_ndx, name.vda_name); });
          });
    }
    if (last == 0 && !find(DT_VERSYM)) return;
    const std::uint64_t address = get(DT_VERSYM, "DT_VERSYM");
    for (const auto index : image_.table<Elf64_Versym>("DT_VERSYM", address, symbols_)) {
      // 0 and 1 mean "local" and "global" and have no names.
      if ((index & 0x7FFFu) > std::max(last, 1u)) {
        refuse_as_damaged(fmt::format("DT_VERSYM names version {}, but the last one is {}",
                                      index & 0x7FFFu, last));
      }
    }
  }
  /// Visits a list whose entries hold the distance to the next one in bytes; 0 ends it.
  template <typename Entry, typename Visit>
  void walk(const char* what, std::uint64_t address, Elf64_Word Entry::*next, Visit visit) {
    for (;;) {
      if (++versions_ > kMaximumVersions) {
        refuse_as_damaged(fmt::format("{} has more than {} entries", what, kMaximumVersions));
      }
      const auto entry = image_.one<Entry>(what, address);
      visit(entry, address);
      if (entry.*next == 0) return;
      address += entry.*next;
    }
  }

  void check_relocations() {
    // The linker makes text writable while it loads such a library.
    const bool text_too = find(DT_TEXTREL) || (find(DT_FLAGS).value_or(0) & DF_TEXTREL) != 0;
    const auto check_all = [&](const char* what, std::uint64_t address, std::uint64_t size) {
      const auto all = image_.table<Elf64_Rela>(what, address, size / sizeof(Elf64_Rela));
      for (const auto& relocation : all) check_relocation(what, relocation, text_too ? 0 : PF_W);
      return all;
    };
    if (const auto address = find(DT_RELA)) {
      require(DT_RELAENT, "DT_RELAENT", sizeof(Elf64_Rela));
      const auto all = check_all("DT_RELA", *address, get(DT_RELASZ, "DT_RELASZ"));
      const std::size_t relative =
          std::min<std::size_t>(find(DT_RELACOUNT).value_or(0), all.size());
      for (std::size_t i = 0; i < relative; ++i) {
        if (ELF64_R_TYPE(all[i].r_info) != kRelative) {
          refuse_as_damaged(fmt::format(
              "relocation {} is not among the {} relative ones of DT_RELACOUNT", i, relative));
        }
      }
    }
    if (find(DT_JMPREL) || find(DT_PLTRELSZ)) {
      require(DT_PLTREL, "DT_PLTREL", DT_RELA);
      check_all("DT_JMPREL", get(DT_JMPREL, "DT_JMPREL"), get(DT_PLTRELSZ, "DT_PLTRELSZ"));
    }
  }
  void check_relocation(const char* what, const Elf64_Rela& relocation, Elf64_Word flags) {
    const auto type = ELF64_R_TYPE(relocation.r_info);
    if (type == 0) return;
    if (!image_.holds(relocation.r_offset, 8, flags)) refuse_address(what, relocation.r_offset);
    if (ELF64_R_SYM(relocation.r_info) >= symbols_) {
      refuse_as_damaged(
          fmt::format("{} names symbol {} of {}", what, ELF64_R_SYM(relocation.r_info), symbols_));
    }
    const auto target = static_cast<std::uint64_t>(relocation.r_addend);
    if (type == kIndirectRelative && !image_.is_code(target)) refuse_address(what, target);
    if (type == kRelative) relative_[relocation.r_offset] = target;
    relocated_.push_back(relocation.r_offset);
  }

  /// Checks the functions that the linker calls.
  void check_functions() {
    for (const auto& [tag, name] : {std::pair{DT_INIT, "DT_INIT"}, std::pair{DT_FINI, "DT_FINI"}}) {
      if (const auto address = find(tag); address && !image_.is_code(*address)) {
        refuse_address(name, *address);
      }
    }
    std::sort(relocated_.begin(), relocated_.end());
    if (const auto array = find(DT_INIT_ARRAY)) {
      check_array("DT_INIT_ARRAY", *array, get(DT_INIT_ARRAYSZ, "DT_INIT_ARRAYSZ"));
    }
    if (const auto array = find(DT_FINI_ARRAY)) {
      check_array("DT_FINI_ARRAY", *array, get(DT_FINI_ARRAYSZ, "DT_FINI_ARRAYSZ"));
    }
  }
  void check_array(const char* what, std::uint64_t address, std::uint64_t size) const {
    const std::uint64_t count = size / 8;
    static_cast<void>(image_.table<std::uint64_t>(what, address, count));
    if (find(kPackedRelocations)) return;  // what they hold is not read here
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t slot = address + i * 8;
      const auto relative = relative_.find(slot);
      if (relative != relative_.end() && !image_.is_code(relative->second)) {
        refuse_address(what, relative->second);
      }
      if (!std::binary_search(relocated_.begin(), relocated_.end(), slot)) {
        refuse_as_damaged(fmt::format("{} holds an address that nothing relocates", what));
      }
    }
  }

  const ElfFile& file_;
  const Image& image_;
  std::map<Elf64_Sxword, std::uint64_t> entries_;
  std::vector<std::uint64_t> needed_;  ///< names, as offsets into strings_
  std::vector<char> strings_;
  std::uint64_t symbols_ = 0;
  int versions_ = 0;
  std::map<std::uint64_t, std::uint64_t> relative_;  ///< relative relocations: place to target
  std::vector<std::uint64_t> relocated_;
};

}  // namespace

void check_dynamic_section(const ElfFile& file) {
  const Image image(file);
  check_inner_segments(file, image);
  Dynamic(file, image).check();
}

}  // namespace backstop::catalog
