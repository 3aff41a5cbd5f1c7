#include "idx_file.hpp"

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <string>
#include <system_error>

#include <unistd.h>
#include <zlib.h>

namespace backstop::idx {
namespace {

namespace fs = std::filesystem;
using files::refuse;

// The largest official file has 47 MB. Empty gzip members, for example, could go on for ever.
constexpr std::uint64_t kLargestFile = std::uint64_t{64} << 20;

struct Close {
  void operator()(gzFile_s* file) const noexcept { gzclose_r(file); }
};
using Stream = std::unique_ptr<gzFile_s, Close>;

/// Reads up to `size` bytes, fewer at the end of the file. zlib compares the checksum when it
/// reaches the end.
std::size_t read_bytes(gzFile file, const fs::path& path, void* to, std::size_t size) {
  const int got = gzread(file, to, static_cast<unsigned>(size));
  int code = Z_OK;
  gzerror(file, &code);
  if (code == Z_BUF_ERROR)
    refuse(path, "ends in the middle of its gzip stream", "the file was cut short: copy it again");
  if (code == Z_MEM_ERROR) throw std::bad_alloc();
  if (code == Z_ERRNO)
    refuse(path, "cannot be read: " + std::generic_category().message(errno),
           "check the file and the disk that holds it");
  if (code != Z_OK || got < 0)
    refuse(path, "holds damaged gzip data",
           "the file was changed after it was made: copy it again");
  return static_cast<std::size_t>(got);
}

std::uint32_t big_endian(const std::uint8_t* bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
         std::uint32_t{bytes[2]} << 8 | std::uint32_t{bytes[3]};
}

std::string hexadecimal(std::uint32_t value) {
  std::array<char, 11> text{};
  std::snprintf(text.data(), text.size(), "0x%08x", value);
  return text.data();
}

}  // namespace

void read_array(const files::File& source, std::span<const std::int64_t> shape, std::uint8_t* to) {
  constexpr std::uint32_t kLabels = 0x00000801, kImages = 0x00000803;
  const std::uint32_t expected_magic = shape.size() == 1 ? kLabels : kImages;
  const std::string unit = shape.size() == 1 ? " labels" : " (images x rows x columns)";

  const fs::path& path = source.path();
  if (source.size() > kLargestFile)
    refuse(path,
           "has " + std::to_string(source.size()) + " bytes, expected at most " +
               std::to_string(kLargestFile),
           "is this the right file?");
  const int descriptor = dup(source.descriptor());  // closed by the stream
  if (descriptor < 0)
    refuse(path, "cannot be read: " + std::generic_category().message(errno), "close other files");
  const Stream file(gzdopen(descriptor, "rb"));
  if (!file) {
    close(descriptor);
    throw std::bad_alloc();
  }

  std::array<std::uint8_t, 16> header{};
  const std::size_t header_size = 4 + 4 * shape.size();
  const std::size_t header_got = read_bytes(file.get(), path, header.data(), header_size);
  if (header_got == 0)  // a gzip file with no content
    refuse(path, "decompresses to nothing, expected an IDX file",
           "the file was cut short: copy it again");
  if (header_got < header_size)
    refuse(path,
           "ends after " + std::to_string(header_got) + " bytes, expected a header of " +
               std::to_string(header_size),
           "the file was cut short: copy it again");

  const std::uint32_t magic = big_endian(header.data());
  if (magic != expected_magic) {
    const bool swapped = magic == kLabels || magic == kImages;
    refuse(path, "starts with " + hexadecimal(magic) + ", expected " + hexadecimal(expected_magic),
           swapped ? "it is a file of " + std::string(magic == kLabels ? "labels" : "images") +
                         ": were images and labels swapped?"
                   : "it is not an IDX file of " +
                         std::string(shape.size() == 1 ? "labels" : "images") + ": copy it again");
  }
  std::string declared, expected;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::string times = i == 0 ? "" : " x ";
    declared += times + std::to_string(big_endian(header.data() + 4 + 4 * i));
    expected += times + std::to_string(shape[i]);
  }
  if (declared != expected)
    refuse(path, "declares " + declared + ", expected " + expected + unit,
           "does the file belong to the other split, or to another dataset?");

  const auto size = static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
  const std::size_t got = read_bytes(file.get(), path, to, size);
  const std::string holds = gzdirect(file.get()) != 0 ? "holds " : "decompresses to ";
  const std::string declared_size = std::to_string(header_size + size);
  if (got < size)
    refuse(path,
           holds + std::to_string(header_size + got) + " bytes, expected the " + declared_size +
               " that its header declares",
           "the file was cut short: copy it again");
  std::uint8_t beyond = 0;
  if (read_bytes(file.get(), path, &beyond, 1) != 0)
    refuse(path, holds + "more than the " + declared_size + " bytes that its header declares",
           "the file does not match its header: copy it again");
}

}  // namespace backstop::idx
