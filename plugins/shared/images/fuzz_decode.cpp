// Any bytes as an image: they must give pixels, or an EnvironmentError that names the file.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "backstop/error.hpp"
#include "decode.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop::images;
  try {
    const Image image = decode("a.file", {data, size});
    if (image.width < 1 || image.height < 1 ||
        std::ssize(image.rgb) != 3 * image.width * image.height)
      __builtin_trap();
  } catch (const backstop::EnvironmentError& e) {
    if (!std::string_view(e.what()).starts_with("a.file: ") || e.hint().empty()) __builtin_trap();
  }
  return 0;
}
