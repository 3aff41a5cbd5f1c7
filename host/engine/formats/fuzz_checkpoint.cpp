// Any bytes as a model's file: tensors that lie within their storages, or a HostError. The first byte
// says what the rest is: a file, or the pickle in a checkpoint or in TorchScript whose sums are right.
#include <cstdint>
#include <string>

#include "host/base/error.hpp"
#include "host/engine/formats/model_source.hpp"
#include "host/engine/formats/testing.hpp"
#include "tests/fuzz/memory_file.hpp"

namespace {

std::string file_of(char kind, std::string bytes) {
  using backstop::engine::testing::Entry;
  if (kind != 'c' && kind != 't') return bytes;
  std::vector<Entry> entries = {{"a/data.pkl", std::move(bytes)},
                                {"a/data/0", std::string(64, '\1')},
                                {"a/data/1", std::string(16, '\2'), true}};
  if (kind == 't') {
    entries.push_back({"a/code/x.py", ""});
    entries.push_back({"a/constants.pkl", ""});
  }
  return backstop::engine::testing::zip(entries);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop;
  if (size == 0) return 0;
  const std::string bytes =
      file_of(static_cast<char>(data[0]), {reinterpret_cast<const char*>(data) + 1, size - 1});
  try {
    const fuzz::MemoryFile file(bytes.data(), bytes.size());
    const engine::ModelSource source(file.path());
    for (const engine::StoredTensor& tensor : source.header().tensors) {
      std::uint64_t last = tensor.offset;
      bool empty = false;
      for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
        if (tensor.shape[d] < 0 || tensor.strides[d] < 0) __builtin_trap();
        empty = empty || tensor.shape[d] == 0;
        last += static_cast<std::uint64_t>(tensor.shape[d] - 1) *
                static_cast<std::uint64_t>(tensor.strides[d]);
      }
      const std::string storage = source.bytes(tensor.storage);
      if (!empty && last >= storage.size() / size_of(tensor.type)) __builtin_trap();
    }
  } catch (const base::HostError& e) {
    if (e.code() != base::ExitCode::environment || *e.what() == '\0') __builtin_trap();
  }
  return 0;
}
