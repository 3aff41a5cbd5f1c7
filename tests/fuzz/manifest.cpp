// Any text for a manifest: a manifest or a HostError that lists its problems; what is accepted can
// be shown as a recipe's fragment.
#include <cstddef>
#include <cstdint>

#include "host/base/error.hpp"
#include "host/recipe/recipe.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop;
  try {
    recipe::recipe_fragment(
        catalog::parse_manifest({reinterpret_cast<const char*>(data), size}, "manifest"));
  } catch (const base::HostError& e) {
    if (e.code() != base::ExitCode::plugin || *e.what() == '\0') __builtin_trap();
  }
  return 0;
}
