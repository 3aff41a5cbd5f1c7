#include "host/engine/store/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <system_error>
#include <unordered_set>

#include <fcntl.h>
#include <unistd.h>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/interrupt.hpp"
#include "host/base/text.hpp"

namespace backstop::engine {

static_assert(std::endian::native == std::endian::little,
              "tensors are written as they lie in memory");

namespace {

// SECURITY.md states these bounds.
constexpr std::uint64_t kLargestHeader = 16u << 20;
constexpr std::size_t kMostTensors = 100'000;
constexpr std::size_t kMostDimensions = 64;

struct TypeName {
  const char* name;
  at::ScalarType type;
};
constexpr TypeName kTypes[] = {{"F64", at::kDouble},    {"F32", at::kFloat}, {"F16", at::kHalf},
                               {"BF16", at::kBFloat16}, {"I64", at::kLong},  {"I32", at::kInt},
                               {"I16", at::kShort},     {"I8", at::kChar},   {"U8", at::kByte},
                               {"BOOL", at::kBool}};

struct Description {
  std::string name;
  std::optional<at::ScalarType> type;
  std::vector<std::int64_t> shape;
  std::vector<std::uint64_t> offsets;  ///< begin and end in the data
  bool has_shape = false;
};

struct Header {
  std::vector<Description> tensors;
  std::map<std::string, std::string> metadata;
};

std::string shown(const std::string& name) {
  return fmt::format("`{}`", base::printable(base::shortened(name)));
}

/// Reads the header as its events come, so that it takes time and memory in proportion to its size
/// whatever it holds, and stops at the first thing that is wrong.
class HeaderReader {
 public:
  Header header;
  std::string problem;  ///< when a function has returned false

  bool start_object(std::size_t) {
    if (place_ == Place::file) return enter(Place::names);
    if (place_ == Place::names && in_metadata_) return enter(Place::metadata);
    if (place_ == Place::names) return enter(Place::tensor);
    return unexpected();
  }
  bool end_object() {
    if (place_ == Place::names) return enter(Place::end);
    if (place_ == Place::metadata) return enter(Place::names);
    const Description& tensor = header.tensors.back();
    if (!tensor.type || !tensor.has_shape || tensor.offsets.size() != 2) return incomplete();
    return enter(Place::names);
  }
  bool key(std::string& text) {
    key_ = text;
    if (place_ == Place::metadata)
      return header.metadata.emplace(key_, "").second || twice("the metadata", key_);
    if (place_ == Place::tensor) return key_of_tensor();
    in_metadata_ = key_ == "__metadata__";
    if (!names_.insert(key_).second) return twice("its header", key_);
    if (in_metadata_) return true;
    if (header.tensors.size() == kMostTensors)
      return fail(fmt::format("it has more than {} tensors", kMostTensors));
    header.tensors.push_back({key_, {}, {}, {}});
    return true;
  }
  bool start_array(std::size_t) {
    if (place_ != Place::tensor) return unexpected();
    Description& tensor = header.tensors.back();
    if (key_ == "dtype") return incomplete();
    if (key_ == "data_offsets") return enter(Place::offsets);
    tensor.has_shape = true;
    return enter(Place::shape);
  }
  bool end_array() { return enter(Place::tensor); }
  bool string(std::string& text) {
    if (place_ == Place::metadata) {
      header.metadata[key_] = text;
      return true;
    }
    if (place_ != Place::tensor) return unexpected();
    Description& tensor = header.tensors.back();
    if (key_ != "dtype") return incomplete();
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const TypeName& t) { return text == t.name; });
    if (type == std::end(kTypes))
      return fail(fmt::format("tensor {} has the unknown dtype {}", shown(tensor.name),
                              base::printable(base::shortened(text))));
    tensor.type = type->type;
    return true;
  }
  bool number_unsigned(std::uint64_t number) {
    if (place_ != Place::shape && place_ != Place::offsets) return unexpected();
    Description& tensor = header.tensors.back();
    if (place_ == Place::offsets) {
      tensor.offsets.push_back(number);
      return tensor.offsets.size() <= 2 || incomplete();
    }
    if (tensor.shape.size() == kMostDimensions)
      return fail(fmt::format("tensor {} has more than {} dimensions", shown(tensor.name),
                              kMostDimensions));
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return fail(fmt::format("tensor {} has a shape larger than the file", shown(tensor.name)));
    tensor.shape.push_back(static_cast<std::int64_t>(number));
    return true;
  }
  bool null() { return unexpected(); }
  bool boolean(bool) { return unexpected(); }
  bool number_integer(std::int64_t) { return unexpected(); }
  bool number_float(double, const std::string&) { return unexpected(); }
  bool binary(nlohmann::json::binary_t&) { return unexpected(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) {
    return fail("its header is not a JSON object");
  }

 private:
  enum class Place { file, names, metadata, tensor, shape, offsets, end };

  bool enter(Place place) {
    place_ = place;
    return true;
  }
  bool fail(std::string why) {
    problem = std::move(why);
    return false;
  }
  bool twice(const char* where, const std::string& name) {
    return fail(fmt::format("{} has the key {} twice", where, shown(name)));
  }
  bool key_of_tensor() {
    const Description& tensor = header.tensors.back();
    const bool known = key_ == "dtype" || key_ == "shape" || key_ == "data_offsets";
    if (!known)
      return fail(fmt::format("tensor {} has the unknown key {}", shown(tensor.name), shown(key_)));
    const bool again = key_ == "dtype"   ? tensor.type.has_value()
                       : key_ == "shape" ? tensor.has_shape
                                         : !tensor.offsets.empty();
    return !again || twice("a tensor", key_);
  }
  bool incomplete() {
    return fail(fmt::format("tensor {} lacks a dtype, a shape or two data_offsets",
                            shown(header.tensors.back().name)));
  }
  /// A value of another type than its place has.
  bool unexpected() {
    switch (place_) {
      case Place::names:
        if (in_metadata_) return fail("its metadata is not an object");
        return incomplete();
      case Place::metadata:
        return fail(fmt::format("{} in its metadata is not a string", shown(key_)));
      case Place::shape:
        return fail(fmt::format("tensor {} has a shape that is not a list of sizes",
                                shown(header.tensors.back().name)));
      case Place::tensor:
      case Place::offsets:
        return incomplete();
      case Place::file:
      case Place::end:
        break;
    }
    return fail("its header is not a JSON object");
  }

  Place place_ = Place::file;
  std::string key_;  ///< the last one
  bool in_metadata_ = false;
  std::unordered_set<std::string> names_;
};

/// A file that is open for reading.
class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      // Without O_NONBLOCK, opening a FIFO would wait until somebody writes to it.
      : number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_;
};

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path), file_(path) {
    struct stat status {};
    if (file_.number() < 0 || ::fstat(file_.number(), &status) != 0)
      cannot_read(std::generic_category().message(errno));
    if (S_ISDIR(status.st_mode)) cannot_read("it is a folder");
    if (!S_ISREG(status.st_mode)) cannot_read("it is not a regular file");
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  TensorFile read() {
    std::uint64_t header_size = 0;
    if (size_ < sizeof header_size)
      fail(fmt::format("it has {} bytes, fewer than the 8 of a header's length", size_));
    bytes(0, &header_size, sizeof header_size);
    if (header_size > kLargestHeader || header_size > size_ - sizeof header_size)
      fail(fmt::format("it announces a header of {} bytes in a file of {}; at most {} are allowed",
                       header_size, size_, kLargestHeader));
    std::string text(header_size, '\0');
    bytes(sizeof header_size, text.data(), header_size);
    data_start_ = sizeof header_size + header_size;
    HeaderReader reader;
    if (!nlohmann::json::sax_parse(text, &reader)) fail(reader.problem);
    const Header& header = reader.header;
    for (const Description& description : header.tensors) check(description);
    check_overlaps(header.tensors);

    TensorFile file{{}, header.metadata};
    for (const Description& description : header.tensors) {
      at::Tensor tensor = at::empty(description.shape, *description.type);
      bytes(data_start_ + description.offsets[0], tensor.data_ptr(), tensor.nbytes());
      file.tensors.emplace_back(description.name, std::move(tensor));
    }
    return file;
  }

 private:
  [[noreturn]] void cannot_read(const std::string& why) const {
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("cannot read {}: {}", path_.string(), why),
                          "expected a safetensors file");
  }
  [[noreturn]] void fail(const std::string& problem) const {
    throw base::HostError(
        base::ExitCode::environment, path_.string() + " is not a safetensors file: " + problem,
        "expected a file that Python's safetensors.torch.save_file writes; this one may be "
        "truncated");
  }

  void bytes(std::uint64_t offset, void* to, std::uint64_t count) const {
    constexpr std::uint64_t kBlock = 1u << 20;
    auto* at = static_cast<char*>(to);
    while (count > 0) {
      base::stop_if_interrupted();
      const ssize_t got =
          ::pread(file_.number(), at, std::min(count, kBlock), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) cannot_read(std::generic_category().message(errno));
      if (got == 0) fail("it ends early");
      at += got;
      offset += static_cast<std::uint64_t>(got);
      count -= static_cast<std::uint64_t>(got);
    }
  }

  void check(const Description& tensor) const {
    const std::uint64_t begin = tensor.offsets[0], end = tensor.offsets[1];
    const std::uint64_t available = size_ - data_start_;
    if (begin > end || end > available)
      fail(fmt::format("tensor {} lies at bytes {} to {} of {}", shown(tensor.name), begin, end,
                       available));
    std::uint64_t size = c10::elementSize(*tensor.type), strides = 1;
    for (const std::int64_t extent : tensor.shape) {
      const auto n = static_cast<std::uint64_t>(extent);
      // A tensor without elements may have other extents of any size: they bound its strides.
      constexpr std::uint64_t kMostStrides = std::uint64_t{1} << 40;
      if (n != 0 && (size > available / n || strides > kMostStrides / n))
        fail(fmt::format("tensor {} has a shape larger than the file", shown(tensor.name)));
      size *= n;
      strides *= std::max<std::uint64_t>(n, 1);
    }
    if (size != end - begin)
      fail(fmt::format("tensor {} needs {} bytes by its shape and has {}", shown(tensor.name), size,
                       end - begin));
  }

  /// Tensors that share bytes could need any multiple of the file's size as memory.
  void check_overlaps(const std::vector<Description>& tensors) const {
    std::vector<const Description*> sorted;
    for (const Description& tensor : tensors)
      if (tensor.offsets[0] != tensor.offsets[1]) sorted.push_back(&tensor);
    std::sort(sorted.begin(), sorted.end(),
              [](const Description* a, const Description* b) { return a->offsets < b->offsets; });
    for (std::size_t i = 1; i < sorted.size(); ++i)
      if (sorted[i]->offsets[0] < sorted[i - 1]->offsets[1])
        fail(fmt::format("tensors {} and {} overlap: they lie at bytes {} to {} and {} to {}",
                         shown(sorted[i - 1]->name), shown(sorted[i]->name),
                         sorted[i - 1]->offsets[0], sorted[i - 1]->offsets[1],
                         sorted[i]->offsets[0], sorted[i]->offsets[1]));
  }

  std::filesystem::path path_;
  Descriptor file_;
  std::uint64_t size_ = 0;
  std::uint64_t data_start_ = 0;
};

const char* type_name(const at::Tensor& tensor) {
  for (const auto& t : kTypes)
    if (t.type == tensor.scalar_type()) return t.name;
  throw base::HostError(
      base::ExitCode::plugin,
      std::string("tensors of type ") + toString(tensor.scalar_type()) + " cannot be saved",
      "save floats, integers or booleans");
}

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) {
  return Reader(path).read();
}

void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::vector<at::Tensor> data;
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    data.push_back(tensor.detach().to(at::kCPU).contiguous(at::MemoryFormat::Contiguous));
    const auto end = offset + data.back().nbytes();
    header[name] = {{"dtype", type_name(tensor)},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t size = text.size();
  base::write_file(path, [&](std::ostream& out) {
    std::array<char, sizeof size> length{};
    std::memcpy(length.data(), &size, sizeof size);
    out.write(length.data(), length.size());
    out << text;
    for (const auto& tensor : data)
      out.write(static_cast<const char*>(tensor.data_ptr()),
                static_cast<std::streamsize>(tensor.nbytes()));
  });
}

}  // namespace backstop::engine
