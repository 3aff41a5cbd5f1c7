// How LibTorch reads an archive that lies in memory. Its own reader of that kind trusts the offsets
// in the archive.
#pragma once

#include <algorithm>
#include <cstring>
#include <string_view>

#include <caffe2/serialize/read_adapter_interface.h>

namespace backstop::engine {

class BytesReader final : public caffe2::serialize::ReadAdapterInterface {
 public:
  /// Keeps a reference to `bytes`.
  explicit BytesReader(std::string_view bytes) : bytes_(bytes) {}

  std::size_t size() const override { return bytes_.size(); }
  std::size_t read(std::uint64_t at, void* to, std::size_t n, const char* = "") const override {
    if (at >= bytes_.size()) return 0;
    const std::size_t given = std::min<std::size_t>(n, bytes_.size() - at);
    std::memcpy(to, bytes_.data() + at, given);
    return given;
  }

 private:
  std::string_view bytes_;
};

}  // namespace backstop::engine
