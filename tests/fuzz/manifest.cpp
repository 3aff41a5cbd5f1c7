// Any text for a manifest: a manifest or a HostError that lists its problems; what is accepted can
// be shown as a recipe's fragment.
#include <cstddef>
#include <cstdint>

#include "host/error.hpp"
#include "host/recipe/recipe.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop::host;
  try {
    recipe_fragment(parse_manifest({reinterpret_cast<const char*>(data), size}, "manifest"));
  } catch (const HostError& e) {
    if (e.code() != ExitCode::plugin || *e.what() == '\0') __builtin_trap();
  }
  return 0;
}
