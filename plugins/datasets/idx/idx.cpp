#include "idx.hpp"

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <new>
#include <system_error>

#include <zlib.h>

#include <ATen/ops/empty.h>

#include "backstop/error.hpp"

namespace backstop::idx {
namespace {

namespace fs = std::filesystem;

struct Close {
  void operator()(gzFile_s* file) const noexcept { gzclose_r(file); }
};
using File = std::unique_ptr<gzFile_s, Close>;

[[noreturn]] void refuse(const fs::path& file, const std::string& problem,
                         const std::string& hint) {
  throw EnvironmentError(file.string() + ": " + problem, hint);
}

fs::path find(const fs::path& folder, const std::string& name, const std::string& source) {
  std::error_code error;
  if (!fs::is_directory(folder, error))
    refuse(folder, "is no folder that can be read, expected one with IDX files", source);
  for (const char* ending : {"", ".gz"}) {
    const fs::path file = folder / (name + ending);
    // Anything but a regular file could block, or never end.
    switch (fs::status(file, error).type()) {
      case fs::file_type::not_found:
        continue;
      case fs::file_type::regular:
        return file;
      case fs::file_type::directory:
        refuse(file, "is a folder, expected an IDX file", source);
      case fs::file_type::none:
        refuse(file, "cannot be read: " + error.message(), "check the file and its permissions");
      default:
        refuse(file, "is not a regular file, expected an IDX file", source);
    }
  }
  refuse(folder / name, "is missing, and so is " + name + ".gz", source);
}

/// Reads up to `size` bytes; fewer at the end of the file. The checksum of gzip is compared when
/// the end is reached.
std::size_t read_bytes(gzFile file, const fs::path& path, void* to, std::size_t size) {
  const int got = gzread(file, to, static_cast<unsigned>(size));
  int code = Z_OK;
  gzerror(file, &code);
  if (code == Z_BUF_ERROR)
    refuse(path, "ends in the middle of its gzip stream, expected all of it",
           "the file was cut short: copy it again");
  if (code == Z_MEM_ERROR) throw std::bad_alloc();
  if (code == Z_ERRNO)
    refuse(path, "cannot be read: " + std::generic_category().message(errno),
           "check the file and the disk that holds it");
  if (code != Z_OK || got < 0)
    refuse(path, "holds damaged gzip data, expected an intact stream with the right checksum",
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

/// An IDX file of unsigned bytes with this very shape: labels have one dimension, images three.
at::Tensor read_array(const fs::path& path, at::IntArrayRef shape) {
  constexpr std::uint32_t kLabels = 0x00000801, kImages = 0x00000803;
  const std::uint32_t expected_magic = shape.size() == 1 ? kLabels : kImages;
  const std::string unit = shape.size() == 1 ? " labels" : " (images x rows x columns)";

  const File file(gzopen(path.c_str(), "rb"));
  if (!file)
    refuse(path, "cannot be read: " + std::generic_category().message(errno),
           "check the file and its permissions");

  std::array<std::uint8_t, 16> header{};
  const std::size_t header_size = 4 + 4 * shape.size();
  const std::size_t header_got = read_bytes(file.get(), path, header.data(), header_size);
  if (header_got == 0)
    refuse(path, "is empty, expected an IDX file", "the file was cut short: copy it again");
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
  std::string announced, expected;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::string times = i == 0 ? "" : " x ";
    announced += times + std::to_string(big_endian(header.data() + 4 + 4 * i));
    expected += times + std::to_string(shape[i]);
  }
  if (announced != expected)
    refuse(path, "announces " + announced + ", expected " + expected + unit,
           "is it the other split's file, or another dataset's?");

  at::Tensor data = at::empty(shape, at::kByte);
  const std::size_t got = read_bytes(file.get(), path, data.data_ptr(), data.nbytes());
  const std::string holds = gzdirect(file.get()) != 0 ? "holds " : "inflates to ";
  const std::string expected_bytes =
      "expected the " + std::to_string(header_size + data.nbytes()) + " that its header announces";
  if (got < data.nbytes())
    refuse(path, holds + std::to_string(header_size + got) + " bytes, " + expected_bytes,
           "the file was cut short: copy it again");
  std::uint8_t beyond = 0;
  if (read_bytes(file.get(), path, &beyond, 1) != 0)
    refuse(path, holds + "more bytes, " + expected_bytes,
           "the file is not what its header says: copy it again");
  return data;
}

}  // namespace

Samples read_files(const fs::path& folder, const std::string& prefix, const Expected& expected,
                   const std::string& source) {
  const fs::path images = find(folder, prefix + "-images-idx3-ubyte", source);
  const fs::path labels = find(folder, prefix + "-labels-idx1-ubyte", source);
  Samples samples;
  samples.images = read_array(images, {expected.images, expected.height, expected.width});
  samples.images = samples.images.unsqueeze(1);
  samples.labels = read_array(labels, {expected.images}).to(at::kLong);

  const at::Tensor wrong = samples.labels.ge(expected.classes).nonzero();
  if (wrong.size(0) > 0) {
    const auto position = wrong[0].item<std::int64_t>();
    refuse(labels,
           "label " + std::to_string(position) + " (from 0) is " +
               std::to_string(samples.labels[position].item<std::int64_t>()) + ", expected 0 to " +
               std::to_string(expected.classes - 1),
           "the file is damaged or another dataset's: copy it again");
  }
  return samples;
}

Samples read_split(const fs::path& folder, Split split, const std::string& source) {
  const bool train = split == Split::train;
  return read_files(folder, train ? "train" : "t10k", {train ? 60000 : 10000, 28, 28, 10}, source);
}

}  // namespace backstop::idx
