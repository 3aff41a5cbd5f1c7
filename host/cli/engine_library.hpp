// The engine, loaded when a command first needs LibTorch.
#pragma once

#include <filesystem>

#include <boost/dll/shared_library.hpp>

#include "host/engine/engine.hpp"

namespace backstop::cli {

/// Where the engine of this program lies; it need not be there.
std::filesystem::path engine_file();

/// Loads the engine beside this program, once and for good. Throws HostError(environment).
boost::dll::shared_library& engine_library();

/// One of the engine's exported functions.
template <typename Function>
Function& engine_function(const char* name) {
  return engine_library().get<Function>(name);
}

}  // namespace backstop::cli
