#include "host/engine/store/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/files.hpp"

namespace backstop::engine {

static_assert(std::endian::native == std::endian::little,
              "tensors are written as they lie in memory");

namespace {

constexpr std::uint64_t kLargestHeader = 16u << 20;

struct TypeName {
  const char* name;
  at::ScalarType type;
};
constexpr TypeName kTypes[] = {{"F64", at::kDouble},    {"F32", at::kFloat}, {"F16", at::kHalf},
                               {"BF16", at::kBFloat16}, {"I64", at::kLong},  {"I32", at::kInt},
                               {"I16", at::kShort},     {"I8", at::kChar},   {"U8", at::kByte},
                               {"BOOL", at::kBool}};

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path)
      : path_(path), stream_(path, std::ios::binary) {
    if (!stream_ || !std::filesystem::is_regular_file(path_)) fail("it cannot be opened as a file");
    stream_.seekg(0, std::ios::end);
    size_ = static_cast<std::uint64_t>(stream_.tellg());
    stream_.seekg(0);
  }

  TensorFile read() {
    std::uint64_t header_size = 0;
    if (size_ < sizeof header_size)
      fail("it has " + std::to_string(size_) + " bytes, fewer than the 8 of a header's length");
    bytes(&header_size, sizeof header_size);
    if (header_size > kLargestHeader || header_size > size_ - sizeof header_size)
      fail("it announces a header of " + std::to_string(header_size) + " bytes in a file of " +
           std::to_string(size_));
    std::string text(header_size, '\0');
    bytes(text.data(), header_size);
    data_start_ = sizeof header_size + header_size;
    const auto header = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!header.is_object()) fail("its header is not a JSON object");
    TensorFile file;
    for (const auto& [name, description] : header.items()) {
      if (name == "__metadata__") {
        if (!description.is_object()) fail("its metadata is not an object");
        for (const auto& [key, value] : description.items())
          if (value.is_string()) file.metadata[key] = value.get<std::string>();
      } else {
        file.tensors.emplace_back(name, tensor(name, description));
      }
    }
    return file;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw base::HostError(
        base::ExitCode::environment, path_.string() + " is not a safetensors file: " + problem,
        "expected a file that Python's safetensors.torch.save_file writes; this one may be "
        "truncated");
  }

  void bytes(void* to, std::uint64_t count) {
    stream_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    if (!stream_) fail("it ends early");
  }

  at::Tensor tensor(const std::string& name, const nlohmann::ordered_json& d) {
    const auto offset = [](const nlohmann::ordered_json& v) { return v.is_number_unsigned(); };
    if (!d.is_object() || !d.contains("dtype") || !d["dtype"].is_string() || !d.contains("shape") ||
        !d["shape"].is_array() || !d.contains("data_offsets") || !d["data_offsets"].is_array() ||
        d["data_offsets"].size() != 2 || !offset(d["data_offsets"][0]) ||
        !offset(d["data_offsets"][1]))
      fail("tensor `" + name + "` lacks a dtype, a shape or two data_offsets");
    const auto type_name = d["dtype"].get<std::string>();
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const TypeName& t) { return type_name == t.name; });
    if (type == std::end(kTypes)) fail("tensor `" + name + "` has the unknown dtype " + type_name);
    const auto begin = d["data_offsets"][0].get<std::uint64_t>();
    const auto end = d["data_offsets"][1].get<std::uint64_t>();
    const std::uint64_t available = size_ - data_start_;
    if (begin > end || end > available)
      fail("tensor `" + name + "` lies at bytes " + std::to_string(begin) + " to " +
           std::to_string(end) + " of " + std::to_string(available));
    std::vector<std::int64_t> shape;
    std::uint64_t size = c10::elementSize(type->type), strides = 1;
    for (const auto& extent : d["shape"]) {
      if (!extent.is_number_unsigned())
        fail("tensor `" + name + "` has a shape that is not a list of sizes");
      const auto n = extent.get<std::uint64_t>();
      // A tensor without elements may have other extents of any size: they bound its strides.
      constexpr std::uint64_t kMostStrides = std::uint64_t{1} << 40;
      if (n != 0 && (size > available / n || strides > kMostStrides / n))
        fail("tensor `" + name + "` has a shape larger than the file");
      size *= n;
      strides *= std::max<std::uint64_t>(n, 1);
      shape.push_back(static_cast<std::int64_t>(n));
    }
    if (size != end - begin)
      fail("tensor `" + name + "` needs " + std::to_string(size) + " bytes by its shape and has " +
           std::to_string(end - begin));
    at::Tensor result = at::empty(shape, type->type);
    stream_.seekg(static_cast<std::streamoff>(data_start_ + begin));
    bytes(result.data_ptr(), size);
    return result;
  }

  std::filesystem::path path_;
  std::ifstream stream_;
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
