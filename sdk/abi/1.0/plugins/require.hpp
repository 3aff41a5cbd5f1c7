// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// What the plugins check of the host.
#pragma once

#include <string>

#include "backstop/abi.h"
#include "backstop/error.hpp"

#if BACKSTOP_ABI_MAJOR != 1 || BACKSTOP_ABI_MINOR != 0 || BACKSTOP_TARGET_ABI_MINOR != 0
#error "these plugins must be built with the headers of ABI 1.0 beside them"
#endif

inline void require(bool holds, const std::string& promise) {
  if (!holds) throw backstop::Error("the host breaks ABI 1.0: " + promise);
}

/// The host throws an Error, which the plugin can catch.
template <typename Function>
void require_error(Function function, const std::string& promise) {
  try {
    function();
  } catch (const backstop::Cancelled&) {
    throw;
  } catch (const backstop::Error&) {
    return;
  }
  require(false, promise);
}
