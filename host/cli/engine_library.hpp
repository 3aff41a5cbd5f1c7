// The engine, loaded when a command first needs LibTorch.
#pragma once

#include <filesystem>

#include <boost/dll/shared_library.hpp>

#include "host/engine/engine.hpp"

namespace backstop::cli {

/// The path of this program's engine, which need not exist.
std::filesystem::path engine_file();

/// Throws HostError(environment) if it does not exist.
void require_engine();

/// Loads this program's engine at the first call and never unloads it. Throws
/// HostError(environment).
boost::dll::shared_library& engine_library();

/// One of the engine's exported functions.
template <typename Function>
Function& engine_function(const char* name) {
  return engine_library().get<Function>(name);
}

}  // namespace backstop::cli
