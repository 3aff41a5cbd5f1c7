// Any text as GTSRB's annotations: it must give signs that are all within their bounds, or an
// EnvironmentError that names the file.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "annotations.hpp"
#include "backstop/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop::gtsrb;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const Sign& sign : parse_annotations(text, "a.csv")) {
      if (sign.label < 0 || sign.label >= kClasses || sign.box.left < 0 || sign.box.top < 0 ||
          sign.box.left >= sign.box.right || sign.box.top >= sign.box.bottom ||
          sign.box.right > sign.width || sign.box.bottom > sign.height)
        __builtin_trap();
    }
    if (!has_labels(text)) __builtin_trap();
  } catch (const backstop::EnvironmentError& e) {
    if (!std::string_view(e.what()).starts_with("a.csv") || e.hint().empty()) __builtin_trap();
  }
  return 0;
}
