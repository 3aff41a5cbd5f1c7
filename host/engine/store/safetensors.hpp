// The safetensors format, which Python users know: a JSON header and raw little-endian tensors.
// Files may come from anywhere: everything in them is checked before it is used, no two tensors may
// share bytes, and so reading one never takes more memory than it has bytes.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace backstop::engine {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

struct TensorFile {
  NamedTensors tensors;                         ///< on the CPU, contiguous, in the file's order
  std::map<std::string, std::string> metadata;  ///< `__metadata__`
};

/// Throws HostError(environment) that names the file, what was found and what was expected. Ctrl-C
/// ends it.
TensorFile read_safetensors(const std::filesystem::path& path);

/// Written whole and renamed into place.
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace backstop::engine
