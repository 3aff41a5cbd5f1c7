// Checks a parsed recipe against the host's keys and the plugins' manifests, and resolves it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <toml++/toml.h>

#include "host/catalog/catalog.hpp"
#include "host/recipe/diagnostic.hpp"
#include "host/recipe/override.hpp"

namespace backstop::recipe {

/// An error at `region` of the recipe in `file`, or of the override that made the region.
Diagnostic diagnostic_at(const toml::source_region& region, const std::string& file,
                         Problem problem);

/// The resolved form of `recipe`, which holds no [matrix]; of use only if no error was added to
/// `diagnostics`. Its keys carry their place in the documented order as their source position.
toml::table resolve(const toml::table& recipe, const Changes& changes, const std::string& file,
                    const catalog::Catalog& catalog, std::vector<Diagnostic>& diagnostics);

/// The same of a dataset's parameters alone; the result holds its `plugin` too.
toml::table resolve_dataset(const catalog::Manifest& plugin, const toml::table& given,
                            const Changes& changes, const catalog::Catalog& catalog,
                            std::vector<Diagnostic>& diagnostics);

}  // namespace backstop::recipe
