// The first field of every structure that may grow.
#pragma once

#include <cstdint>

namespace backstop {
inline namespace v1 {

/// The size in bytes of the structure that it is a field of. Whoever reads a structure reads no
/// more of it. A copy of a structure has the size of the copy, not that of the original, which may
/// be longer.
template <typename Structure>
class StructSize {
 public:
  constexpr StructSize() noexcept : bytes_(sizeof(Structure)) {}
  constexpr StructSize(const StructSize&) noexcept : StructSize() {}
  constexpr StructSize& operator=(const StructSize&) noexcept { return *this; }
  constexpr StructSize& operator=(std::uint32_t bytes) noexcept {
    bytes_ = bytes;
    return *this;
  }
  constexpr operator std::uint32_t() const noexcept { return bytes_; }

 private:
  std::uint32_t bytes_;
};

}  // namespace v1
}  // namespace backstop
