#include "host/engine/formats/zip_archive.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include <zlib.h>

#include <fmt/format.h>

#include "host/base/interrupt.hpp"

namespace backstop::engine {

namespace {

// SECURITY.md states these bounds.
constexpr std::uint64_t kLargestDirectory = 64u << 20;
constexpr std::uint64_t kMostEntries = 200'000;
constexpr std::size_t kLongestName = 4096;

// APPNOTE.TXT, the specification of zip, 4.3.
constexpr std::uint32_t kLocalHeader = 0x04034b50, kDescriptor = 0x08074b50,
                        kCentralHeader = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                        kLocator64 = 0x07064b50;
constexpr std::uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56,
                        kLocatorSize = 20;
constexpr std::uint16_t kEncrypted = 1, kHasDescriptor = 1 << 3;
constexpr std::uint16_t kIn64 = 0xffff;
constexpr std::uint32_t kIn64Long = 0xffffffff;

/// The little-endian number of `bytes` bytes at `at`, which lie in `text`.
std::uint64_t number(std::string_view text, std::uint64_t at, int bytes) {
  std::uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i)
    value = value << 8 | static_cast<unsigned char>(text[at + static_cast<std::uint64_t>(i)]);
  return value;
}

std::string little_endian(std::uint32_t value) {
  std::string bytes(4, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(value >> 8 * i);
  return bytes;
}

std::uint32_t crc_of(std::string_view bytes) {
  return static_cast<std::uint32_t>(
      ::crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

bool leaves_the_folder(std::string_view name) {
  if (name.front() == '/' || name.find('\\') != std::string_view::npos ||
      name.find('\0') != std::string_view::npos || (name.size() > 1 && name[1] == ':'))
    return true;
  for (std::size_t start = 0; start <= name.size();) {
    const std::size_t end = std::min(name.find('/', start), name.size());
    if (name.substr(start, end - start) == "..") return true;
    start = end + 1;
  }
  return false;
}

}  // namespace

ZipArchive::ZipArchive(const InputFile& file) : file_(file) {
  read_directory();
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    ZipEntry& entry = entries_[i];
    if (!by_name_.emplace(entry.name, i).second)
      damaged(fmt::format("has two entries of the name {}", shown(entry.name)));
    locate(entry);
  }
  check_overlaps();
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

void ZipArchive::damaged(const std::string& why) const {
  file_.refuse("the zip archive " + why, kDamaged);
}

void ZipArchive::read_directory() {
  // The end record is last, but for a comment of at most 65,535 bytes.
  const std::uint64_t tail_size = std::min<std::uint64_t>(file_.size(), kEndSize + 0xffff);
  const std::uint64_t tail_start = file_.size() - tail_size;
  const std::string tail = file_.text(tail_start, tail_size);
  std::optional<std::uint64_t> end;
  for (std::uint64_t at = tail_size; at-- > 0 && !end;)
    if (tail_size - at >= kEndSize && number(tail, at, 4) == kEnd &&
        number(tail, at + 20, 2) == tail_size - at - kEndSize)
      end = at;
  if (!end) damaged("has no directory at its end");

  std::uint64_t disk = number(tail, *end + 4, 2), count = number(tail, *end + 10, 2),
                size = number(tail, *end + 12, 4), start = number(tail, *end + 16, 4);
  std::uint64_t directory_end = tail_start + *end;
  if (*end >= kLocatorSize && number(tail, *end - kLocatorSize, 4) == kLocator64) {
    const std::uint64_t record = number(tail, *end - kLocatorSize + 8, 8);
    if (file_.size() < kEnd64Size || record > file_.size() - kEnd64Size)
      damaged(fmt::format("has its zip64 directory at byte {} of {}", record, file_.size()));
    const std::string end64 = file_.text(record, kEnd64Size);
    if (number(end64, 0, 4) != kEnd64) damaged("has no zip64 directory where it says");
    disk = number(end64, 16, 4);
    count = number(end64, 32, 8);
    size = number(end64, 40, 8);
    start = number(end64, 48, 8);
    directory_end = record;
  }
  if (disk != 0) damaged("is one part of several");
  if (start > directory_end || size != directory_end - start)
    damaged(fmt::format("has a directory of {} bytes at byte {}, which ends at byte {}", size,
                        start, directory_end));
  if (size > kLargestDirectory || count > kMostEntries)
    damaged(fmt::format("has {} entries in a directory of {} bytes; at most {} in {} are allowed",
                        count, size, kMostEntries, kLargestDirectory));
  directory_ = start;

  const std::string text = file_.text(start, size);
  std::uint64_t at = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (size - at < kCentralSize || number(text, at, 4) != kCentralHeader)
      damaged(fmt::format("has {} entries in its directory, not {}", i, count));
    const std::uint64_t name_size = number(text, at + 28, 2), extra_size = number(text, at + 30, 2),
                        comment_size = number(text, at + 32, 2);
    if (name_size + extra_size + comment_size > size - at - kCentralSize)
      damaged("has a directory that ends within an entry");
    ZipEntry entry;
    entry.name = text.substr(at + kCentralSize, name_size);
    if (name_size == 0 || name_size > kLongestName)
      damaged(fmt::format("has an entry with a name of {} bytes; 1 to {} are allowed", name_size,
                          kLongestName));
    if (leaves_the_folder(entry.name))
      damaged(fmt::format("has an entry that leaves its folder: {}", shown(entry.name)));
    const std::uint64_t flags = number(text, at + 8, 2), method = number(text, at + 10, 2);
    if (flags & kEncrypted) damaged(fmt::format("is encrypted: {}", shown(entry.name)));
    if (method != 0 && method != 8)
      damaged(fmt::format("compresses {} by method {}; only stored and deflated entries are read",
                          shown(entry.name), method));
    entry.deflated = method == 8;
    entry.crc = static_cast<std::uint32_t>(number(text, at + 16, 4));
    entry.stored_size = number(text, at + 20, 4);
    entry.size = number(text, at + 24, 4);
    entry.local_header = number(text, at + 42, 4);
    entry.central_header = start + at;
    if (number(text, at + 34, 2) != 0 && number(text, at + 34, 2) != kIn64)
      damaged("is one part of several");

    // Numbers that do not fit are in the extra field 1, in this order.
    const std::uint64_t extra_end = at + kCentralSize + name_size + extra_size;
    for (std::uint64_t extra = extra_end - extra_size; extra_end - extra >= 4;) {
      const std::uint64_t id = number(text, extra, 2), length = number(text, extra + 2, 2);
      extra += 4;
      if (length > extra_end - extra) break;
      std::uint64_t field = extra;
      extra += length;
      if (id != 1) continue;
      for (std::uint64_t* value : {&entry.size, &entry.stored_size, &entry.local_header})
        if (*value == kIn64Long && extra - field >= 8) {
          *value = number(text, field, 8);
          field += 8;
        }
    }
    entries_.push_back(std::move(entry));
    at = extra_end + comment_size;
  }
  if (at != size) damaged(fmt::format("has more than {} entries in its directory", count));
}

void ZipArchive::locate(ZipEntry& entry) const {
  const auto outside = [&] {
    damaged(fmt::format("has {} at bytes {} and following, outside of the {} that hold entries",
                        shown(entry.name), entry.local_header, directory_));
  };
  if (directory_ < kLocalSize || entry.local_header > directory_ - kLocalSize) outside();
  const std::string header = file_.text(entry.local_header, kLocalSize);
  const std::uint64_t name_size = number(header, 26, 2), extra_size = number(header, 28, 2);
  const std::uint64_t after = directory_ - entry.local_header - kLocalSize;
  if (number(header, 0, 4) != kLocalHeader)
    damaged(fmt::format("has no entry where {} should be", shown(entry.name)));
  if (name_size + extra_size > after || entry.stored_size > after - name_size - extra_size)
    outside();
  if (name_size != entry.name.size() ||
      file_.text(entry.local_header + kLocalSize, name_size) != entry.name ||
      number(header, 8, 2) != (entry.deflated ? 8u : 0u))
    damaged(fmt::format("describes {} in two ways", shown(entry.name)));
  if (!entry.deflated && entry.size != entry.stored_size)
    damaged(fmt::format("stores {} bytes as {} in {}", entry.size, entry.stored_size,
                        shown(entry.name)));
  // No byte can stand for more than 1,032.
  if (entry.deflated && entry.size / 1032 > entry.stored_size)
    damaged(fmt::format("claims that {} bytes of {} hold {}", entry.stored_size, shown(entry.name),
                        entry.size));
  entry.data_offset = entry.local_header + kLocalSize + name_size + extra_size;
}

void ZipArchive::check_overlaps() const {
  std::vector<const ZipEntry*> sorted;
  for (const ZipEntry& entry : entries_) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(),
            [](const ZipEntry* a, const ZipEntry* b) { return a->local_header < b->local_header; });
  for (std::size_t i = 1; i < sorted.size(); ++i)
    if (sorted[i]->local_header < sorted[i - 1]->data_offset + sorted[i - 1]->stored_size)
      damaged(fmt::format("has entries that overlap: {} and {}", shown(sorted[i - 1]->name),
                          shown(sorted[i]->name)));
}

std::string ZipArchive::read(const ZipEntry& entry, std::uint64_t most) const {
  if (entry.size > most)
    file_.refuse(
        fmt::format("{} has {} bytes; at most {} are allowed", shown(entry.name), entry.size, most),
        kDamaged);
  std::string content = file_.text(entry.data_offset, entry.stored_size);
  if (entry.deflated) {
    std::string inflated(entry.size, '\0');
    z_stream stream{};
    if (::inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
    constexpr std::size_t kBlock = std::size_t{1} << 20;
    std::size_t in = 0, out = 0;
    int status = Z_OK;
    while (status == Z_OK) {
      const std::size_t some = std::min(kBlock, content.size() - in),
                        room = std::min(kBlock, inflated.size() - out);
      stream.next_in = reinterpret_cast<Bytef*>(content.data() + in);
      stream.avail_in = static_cast<uInt>(some);
      stream.next_out = reinterpret_cast<Bytef*>(inflated.data() + out);
      stream.avail_out = static_cast<uInt>(room);
      status = ::inflate(&stream, Z_NO_FLUSH);
      in += some - stream.avail_in;
      out += room - stream.avail_out;
    }
    ::inflateEnd(&stream);
    if (status != Z_STREAM_END || out != inflated.size() || in != content.size())
      damaged(fmt::format("cannot be decompressed: {} does not hold {} bytes", shown(entry.name),
                          entry.size));
    content = std::move(inflated);
  }
  if (const std::uint32_t crc = crc_of(content); crc != entry.crc)
    damaged(fmt::format("has changed since it was written: the CRC-32 of {} is {:08x}, not {:08x}",
                        shown(entry.name), crc, entry.crc));
  return content;
}

void ZipArchive::replace(const ZipEntry& entry, std::string bytes, Patches& patches) const {
  if (entry.deflated)
    file_.refuse(fmt::format("{} is compressed, and cannot be written in place", shown(entry.name)),
                 "torch.save stores tensors uncompressed: load the file in Python and save it "
                 "again");
  const std::uint32_t crc = crc_of(bytes);
  const std::string sum = little_endian(crc), old = little_endian(entry.crc);
  const std::uint64_t data_end = entry.data_offset + entry.stored_size;
  patches[entry.data_offset] = std::move(bytes);
  patches[entry.central_header + 16] = sum;
  // A writer that does not know the sum in time writes it behind the content, and perhaps here too.
  if (file_.text(entry.local_header + 14, 4) == old) patches[entry.local_header + 14] = sum;
  const std::string flags = file_.text(entry.local_header + 6, 2);
  if (!(number(flags, 0, 2) & kHasDescriptor) || directory_ - data_end < 8) return;
  const bool signature = number(file_.text(data_end, 4), 0, 4) == kDescriptor;
  const std::uint64_t place = data_end + (signature ? 4 : 0);
  if (file_.text(place, 4) == old) patches[place] = sum;
}

}  // namespace backstop::engine
