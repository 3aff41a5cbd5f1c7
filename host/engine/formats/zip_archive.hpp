// The directory of a zip archive, and its entries' bytes. Nothing is ever written to the file system,
// whatever the entries are called, and an entry takes no more memory than its reader allows.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "host/engine/formats/input_file.hpp"

namespace backstop::engine {

struct ZipEntry {
  std::string name;
  std::uint64_t size = 0;         ///< of the content
  std::uint64_t stored_size = 0;  ///< in the file; the same unless the entry is deflated
  bool deflated = false;
  std::uint32_t crc = 0;
  std::uint64_t data_offset = 0;  ///< of the first byte of the content in the file
  // Where the sum of the content is kept:
  std::uint64_t local_header = 0, central_header = 0;
};

/// What to write over the bytes at an offset of a file. Patches do not overlap.
using Patches = std::map<std::uint64_t, std::string>;

/// Refuses archives that are encrypted, split or damaged, in which entries overlap, or share a name,
/// or have a name that leaves the archive's folder. Throws HostError(environment).
class ZipArchive {
 public:
  /// Keeps a reference to the file.
  explicit ZipArchive(const InputFile& file);

  [[nodiscard]] const std::vector<ZipEntry>& entries() const { return entries_; }
  /// Null if there is none.
  [[nodiscard]] const ZipEntry* find(std::string_view name) const;

  /// The content, after a look at its sum. Refuses one of more than `most` bytes.
  [[nodiscard]] std::string read(const ZipEntry& entry, std::uint64_t most) const;

  /// Adds what gives the entry the content `bytes`, of the same size. Refuses a deflated entry.
  void replace(const ZipEntry& entry, std::string bytes, Patches& patches) const;

 private:
  void read_directory();
  void locate(ZipEntry& entry) const;
  void check_overlaps() const;
  [[noreturn]] void damaged(const std::string& why) const;

  const InputFile& file_;
  std::uint64_t directory_ = 0;  ///< offset of the central directory, where the entries end
  std::vector<ZipEntry> entries_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace backstop::engine
