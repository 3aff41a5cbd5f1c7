// From the resolved TOML of a recipe to the structs that everything else reads.
#pragma once

#include <toml++/toml.h>

#include "host/catalog/catalog.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::recipe {

/// `resolved` was checked against `catalog` without an error: every key is there and of its type.
Recipe typed(toml::table resolved, const catalog::Catalog& catalog);

/// `table` holds the resolved parameters of `plugin`, perhaps among others.
PluginUse plugin_use(const catalog::PluginEntry& plugin, const toml::table& table,
                     const catalog::Catalog& catalog);

/// A resolved optimizer table.
OptimizerUse optimizer_use(const toml::table& table);

}  // namespace backstop::recipe
