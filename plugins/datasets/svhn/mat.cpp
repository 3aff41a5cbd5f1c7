#include "mat.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

#include <zlib.h>

#include "shared/files/transpose.hpp"

namespace backstop::svhn {
namespace {

constexpr std::uint64_t kHeaderSize = 128, kTagSize = 8;
constexpr std::uint32_t kMatrix = 14, kCompressed = 15;  // types of elements
constexpr std::uint8_t kDoubles = 6, kBytes = 9;         // classes of matrices
// The size of the tags, flags, dimensions and name before the values of a matrix with four
// dimensions, and of the padding after them.
constexpr std::uint64_t kLeastOverhead = 56, kMostOverhead = 96;
constexpr std::uint32_t kMostDimensions = 8, kLongestName = 32;
// Room for the tags of a matrix and of its values, and for its flags, dimensions and name.
constexpr std::size_t kHeadSize = 8 + 16 + 8 + 4 * kMostDimensions + 8 + kLongestName + 8;
constexpr std::uint64_t kLeastSize = 8 + 16;

struct Tag {
  std::uint32_t type = 0, size = 0;
};

Tag little_endian_tag(const std::uint8_t* bytes) {
  const auto number = [&](int at) {
    return std::uint32_t{bytes[at]} | std::uint32_t{bytes[at + 1]} << 8 |
           std::uint32_t{bytes[at + 2]} << 16 | std::uint32_t{bytes[at + 3]} << 24;
  };
  return {number(0), number(4)};
}

void check_header(const files::File& file) {
  std::array<char, kHeaderSize> header{};
  if (file.size() < header.size())
    file.refuse("has " + std::to_string(file.size()) + " bytes, expected a header of " +
                std::to_string(header.size()));
  file.read(0, header.data(), header.size());
  const std::string_view text(header.data(), header.size()), version = text.substr(124, 4);
  using namespace std::string_view_literals;
  if (version == "\x00\x01IM"sv) return;
  if (version == "\x00\x02IM"sv) file.refuse("is a MATLAB 7.3 file (HDF5), expected MATLAB 5");
  if (version == "\x01\x00MI"sv)
    file.refuse("is a MATLAB 5 file from a big-endian machine, expected a little-endian one");
  file.refuse("starts with `" + files::printable(text.substr(0, 20)) +
              "`, expected a MATLAB 5 file");
}

/// Reads the head of a matrix. A compressed one is decompressed completely, at most to `most`
/// bytes, so that its checksum is known to be right.
class Matrix {
 public:
  Matrix(const files::File& file, std::uint64_t offset, std::uint64_t most) : file_(file) {
    std::array<std::uint8_t, kTagSize> bytes{};
    if (file.size() - offset < bytes.size()) ends_early();
    file.read(offset, bytes.data(), bytes.size());
    const Tag tag = little_endian_tag(bytes.data());
    if (tag.type != kMatrix && tag.type != kCompressed)
      file.refuse("has an element of type " + std::to_string(tag.type) + " at byte " +
                  std::to_string(offset) + ", expected a matrix (14) or a compressed one (15)");
    if (tag.size > file.size() - offset - bytes.size()) ends_early();
    end_ = offset + bytes.size() + tag.size;
    if (tag.type == kCompressed) {
      decompress_all(offset + bytes.size(), most);
    } else {
      size_ = end_ - offset;
      file.read(offset, head_.data(), std::min<std::size_t>(head_.size(), size_));
    }
    if (size_ > most) too_large(most);
    const Tag matrix = little_endian_tag(head_.data());
    if (size_ < kLeastSize || matrix.type != kMatrix || matrix.size + kTagSize != size_)
      file.refuse("has a matrix of " + std::to_string(size_) +
                  " bytes, which is not the size that its head declares");
    if (const std::uint8_t found = head_[16]; found != kBytes && found != kDoubles)
      file.refuse("has a variable of class " + std::to_string(found) +
                  ", expected arrays of bytes (9) or doubles (6)");
    check_parts();
  }

  [[nodiscard]] std::uint64_t end() const { return end_; }    ///< in the file
  [[nodiscard]] std::uint64_t size() const { return size_; }  ///< decompressed

 private:
  [[noreturn]] void ends_early() const {
    file_.refuse("ends in the middle of a variable after " + std::to_string(file_.size()) +
                 " bytes");
  }
  [[noreturn]] void too_large(std::uint64_t most) const {
    file_.refuse("has a variable of more than " + std::to_string(most) +
                 " bytes, larger than any of SVHN's");
  }

  /// libmatio allocates whatever sizes these parts declare.
  void check_parts() const {
    constexpr std::uint32_t kFlags = 6, kDimensions = 5, kName = 1;  // types of elements
    const auto tag_at = [&](std::size_t at) { return little_endian_tag(head_.data() + at); };
    const auto padded = [](std::uint32_t size) { return std::size_t{size + 7} / 8 * 8; };
    const auto require = [&](bool good, const char* part) {
      if (!good)
        file_.refuse(std::string("has a variable with damaged ") + part +
                     ", expected flags, dimensions, name and values of an array");
    };
    const Tag flags = tag_at(8), dimensions = tag_at(24);
    require(flags.type == kFlags && flags.size == 8, "flags");
    require(dimensions.type == kDimensions && dimensions.size % 4 == 0 && dimensions.size >= 8 &&
                dimensions.size <= 4 * kMostDimensions,
            "dimensions");
    std::size_t at = 32 + padded(dimensions.size);
    const auto skip = [&](std::size_t most, const char* part) {
      const Tag tag = tag_at(at);
      if (const std::uint32_t small = tag.type >> 16; small != 0) {  // up to 4 bytes, in the tag
        require(small <= 4, part);
        at += kTagSize;
      } else {
        require(tag.size <= most, part);
        at += kTagSize + padded(tag.size);
      }
      return tag.type & 0xffff;
    };
    require(skip(kLongestName, "name") == kName, "name");
    skip(size_, "values");
    require(at <= size_, "values");
  }

  void decompress_all(std::uint64_t offset, std::uint64_t most) {
    std::vector<std::uint8_t> in(std::size_t{1} << 16), out(std::size_t{1} << 16);
    z_stream stream{};
    if (inflateInit(&stream) != Z_OK) throw std::bad_alloc();
    const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
    int code = Z_OK;
    while (code != Z_STREAM_END) {
      if (stream.avail_in == 0) {
        const auto now =
            static_cast<std::size_t>(std::min<std::uint64_t>(in.size(), end_ - offset));
        file_.read(offset, in.data(), now);
        offset += now;
        stream.next_in = in.data();
        stream.avail_in = static_cast<uInt>(now);
      }
      stream.next_out = out.data();
      stream.avail_out = static_cast<uInt>(out.size());
      code = inflate(&stream, Z_NO_FLUSH);
      const std::size_t got = out.size() - stream.avail_out;
      if (size_ < head_.size())
        std::copy_n(out.begin(), std::min(got, head_.size() - static_cast<std::size_t>(size_)),
                    head_.begin() + static_cast<std::ptrdiff_t>(size_));
      size_ += got;
      if (size_ > most) too_large(most);
      if (code == Z_MEM_ERROR) throw std::bad_alloc();
      if (code == Z_BUF_ERROR && offset == end_)
        file_.refuse("has a variable that ends in the middle of its compressed data");
      if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
        file_.refuse("holds damaged compressed data");
    }
    if (stream.avail_in != 0 || offset != end_)
      file_.refuse("has bytes after a variable's compressed data, expected none");
  }

  const files::File& file_;
  std::array<std::uint8_t, kHeadSize> head_{};
  std::uint64_t end_ = 0, size_ = 0;
};

std::string number(double value) {
  std::array<char, 32> text{};
  return {text.begin(), std::to_chars(text.begin(), text.end(), value).ptr};
}

std::string shape(const matvar_t& variable) {
  std::string text;
  for (int i = 0; i < variable.rank; ++i)
    text += (i == 0 ? "" : " x ") + std::to_string(variable.dims[i]);
  return text;
}

}  // namespace

MatFile::MatFile(const files::File& file, std::int64_t most) : file_(file) {
  check_header(file);
  const std::uint64_t largest = static_cast<std::uint64_t>(most * kImageSize) + kMostOverhead;
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t offset = kHeaderSize; offset < file.size();) {
    const Matrix matrix(file, offset, largest);
    sizes.push_back(matrix.size());
    offset = matrix.end();
    if (sizes.size() > 2) file.refuse("has more than two variables, expected X and y");
  }

  mat_.reset(Mat_Open(file.path().c_str(), MAT_ACC_RDONLY));
  if (!mat_) file.refuse("cannot be opened by libmatio, expected a MATLAB 5 file");
  for (const std::uint64_t size : sizes) {
    std::unique_ptr<matvar_t, Close> variable(Mat_VarReadNextInfo(mat_.get()));
    if (!variable || !variable->name || !variable->dims)
      file.refuse("has a variable that libmatio cannot read, expected X and y");
    if (variable->isComplex != 0)
      file.refuse("has complex numbers in " + files::printable(variable->name) +
                  ", expected real ones");
    const std::string_view name = variable->name;
    if (name == "X" && !x_) {
      check_images(*variable, size, most);
      x_ = std::move(variable);
    } else if (name == "y" && !y_) {
      y_ = std::move(variable);
    } else {
      file.refuse("has a variable " + files::printable(name) + ", expected X and y");
    }
  }
  for (const auto& [variable, name] : {std::pair{&x_, "X"}, {&y_, "y"}})
    if (!*variable) file.refuse(std::string("has no variable ") + name + ", expected X and y");
  check_labels(*y_);
}

void MatFile::check_images(const matvar_t& variable, std::uint64_t size, std::int64_t most) {
  if (variable.class_type != MAT_C_UINT8)
    file_.refuse("X is of class " + std::to_string(variable.class_type) +
                 ", expected bytes (uint8, 9)");
  if (variable.rank != 4 || variable.dims[0] != kSide || variable.dims[1] != kSide ||
      variable.dims[2] != 3 || variable.dims[3] == 0)
    file_.refuse("X is " + shape(variable) + ", expected 32 x 32 x 3 x images");
  if (variable.dims[3] > static_cast<std::size_t>(most))
    file_.refuse("has " + std::to_string(variable.dims[3]) + " images, expected at most " +
                 std::to_string(most));
  images_ = static_cast<std::int64_t>(variable.dims[3]);
  const std::uint64_t values = static_cast<std::uint64_t>(images_ * kImageSize);
  if (size < values + kLeastOverhead || size > values + kMostOverhead)
    file_.refuse("X is " + shape(variable) + " in a variable of " + std::to_string(size) +
                 " bytes, expected " + std::to_string(values) + " bytes and a head");
}

void MatFile::check_labels(const matvar_t& variable) const {
  const auto expected = static_cast<std::size_t>(images_);
  if (variable.rank != 2 || std::min(variable.dims[0], variable.dims[1]) != 1 ||
      std::max(variable.dims[0], variable.dims[1]) != expected)
    file_.refuse("y is " + shape(variable) + ", expected " + std::to_string(images_) +
                 " x 1, one label per image");
}

void MatFile::read_images(std::uint8_t* to) {
  if (Mat_VarReadDataLinear(mat_.get(), x_.get(), to, 0, 1,
                            static_cast<int>(images_ * kImageSize)) != 0 ||
      x_->data_type != MAT_T_UINT8)
    file_.refuse("X cannot be read by libmatio, expected bytes");
  for (std::int64_t channel = 0; channel < 3 * images_; ++channel)
    files::transpose<kSide>(to + channel * kSide * kSide);
}

void MatFile::read_labels(std::int64_t* to) {
  const auto read = [&](auto value) {
    std::vector<decltype(value)> values(static_cast<std::size_t>(images_));  // 0 is no label
    if (Mat_VarReadDataLinear(mat_.get(), y_.get(), values.data(), 0, 1,
                              static_cast<int>(images_)) != 0)
      file_.refuse("y cannot be read by libmatio, expected bytes or doubles");
    for (std::size_t i = 0; i < values.size(); ++i) {
      // Compared first, because only a double within the range may be converted.
      if (!(values[i] >= 1 && values[i] <= kClasses) ||
          values[i] != static_cast<decltype(value)>(static_cast<int>(values[i])))
        file_.refuse("label " + std::to_string(i) + " (counting from 0) is " +
                     number(static_cast<double>(values[i])) + ", expected 1 to " +
                     std::to_string(kClasses));
      to[i] = static_cast<std::int64_t>(values[i]) % kClasses;
    }
  };
  if (y_->class_type == MAT_C_UINT8)
    read(std::uint8_t{});
  else
    read(double{});
}

}  // namespace backstop::svhn
