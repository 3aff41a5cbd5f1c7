// Any text for the build's facts: facts, and a verdict on them, or a HostError.
#include <cstddef>
#include <cstdint>

#include "host/base/error.hpp"
#include "host/catalog/catalog.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop;
  try {
    const auto facts =
        catalog::parse_build_facts({reinterpret_cast<const char*>(data), size}, "facts");
    const auto refusal = catalog::incompatibility(facts, catalog::own_build_facts());
    if (refusal && (refusal->message.empty() || refusal->hint.empty())) __builtin_trap();
  } catch (const base::HostError& e) {
    if (e.code() != base::ExitCode::plugin || *e.what() == '\0') __builtin_trap();
  }
  return 0;
}
