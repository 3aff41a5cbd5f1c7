// The optimizers that the host has, and the keys of their tables.
#pragma once

#include <string_view>

#include "host/schema/parameter.hpp"

namespace backstop::schema {

/// The key `name` of an optimizer's table. Its choices are the optimizers.
const Parameter& optimizer_name();

/// The keys of the named optimizer's table, `name` first; only `name` where there is no such
/// optimizer.
Parameters optimizer_parameters(std::string_view name);

}  // namespace backstop::schema
