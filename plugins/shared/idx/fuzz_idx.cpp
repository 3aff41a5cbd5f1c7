// Any bytes as an IDX file; the first byte decides between labels and images.
#include <array>

#include "backstop/error.hpp"
#include "idx_file.hpp"
#include "shared/files/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  using namespace backstop;
  if (size < 2) return 0;
  constexpr std::array<std::int64_t, 3> kShape = {2, 3, 4};
  const files::FuzzFile input(bytes + 1, size - 1);
  std::array<std::uint8_t, 24> data{};
  try {
    const std::span<const std::int64_t> shape = kShape;
    idx::read_array({input.path(), {}}, shape.first(bytes[0] % 2 == 0 ? 1 : 3), data.data());
  } catch (const EnvironmentError&) {  // refused
  }
  return 0;
}
