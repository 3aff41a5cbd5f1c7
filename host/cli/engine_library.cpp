#include "host/cli/engine_library.hpp"

#include <cstdlib>

#include <boost/dll/runtime_symbol_info.hpp>
#include <fmt/format.h>

namespace backstop::cli {
namespace {

namespace dll = boost::dll;

/// LibTorch 1.13 does not use AVX-512 unless this variable, which it reads when loaded, asks for
/// it.
void ask_for_avx512() {
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (has_avx512) setenv("ATEN_CPU_CAPABILITY", "avx512", 0);
}

dll::shared_library load() {
  require_engine();
  const auto file = engine_file();
  ask_for_avx512();
  try {
    return dll::shared_library(file, dll::load_mode::rtld_now | dll::load_mode::rtld_global);
  } catch (const std::exception& e) {
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("cannot load the engine: {}", e.what()),
                          "reinstall backstop and LibTorch");
  }
}

}  // namespace

std::filesystem::path engine_file() {
  return (dll::program_location().parent_path() / ".." / "lib" / "backstop" /
          engine::kEngineLibrary)
      .lexically_normal();
}

void require_engine() {
  const auto file = engine_file();
  std::error_code error;
  if (!std::filesystem::exists(file, error))
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("the engine `{}` does not exist", file.string()),
                          "reinstall backstop, or build the target `backstop_engine`");
}

dll::shared_library& engine_library() {
  // Never unloaded: LibTorch's and the plugins' objects live until the process ends.
  static auto& library = *new dll::shared_library(load());
  return library;
}

}  // namespace backstop::cli
