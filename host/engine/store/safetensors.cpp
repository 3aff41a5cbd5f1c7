#include "host/engine/store/safetensors.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/engine/formats/input_file.hpp"
#include "host/engine/formats/safetensors_header.hpp"
#include "host/engine/store/scalar_types.hpp"

namespace backstop::engine {

static_assert(std::endian::native == std::endian::little,
              "tensors are written as they lie in memory");

namespace {

std::string_view type_name(const at::Tensor& tensor) {
  const auto type = element_type(tensor.scalar_type());
  const std::string_view name = type ? safetensors_name(*type) : std::string_view();
  if (!name.empty()) return name;
  throw base::HostError(
      base::ExitCode::plugin,
      std::string("tensors of type ") + toString(tensor.scalar_type()) + " cannot be saved",
      "save floats, integers or booleans");
}

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) {
  const InputFile input(path);
  const SafetensorsHeader header = read_safetensors_header(input);
  TensorFile file{{}, header.metadata};
  for (const StoredTensor& stored : header.model.tensors) {
    at::Tensor tensor = at::empty(stored.shape, scalar_type(stored.type));
    input.read(header.model.storages[stored.storage].offset, tensor.data_ptr(), tensor.nbytes());
    file.tensors.emplace_back(stored.name, std::move(tensor));
  }
  return file;
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
