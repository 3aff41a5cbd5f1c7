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

/// An error at `region` of the recipe in `file`, or of the override that the region comes from.
Diagnostic diagnostic_at(const toml::source_region& region, const std::string& file,
                         schema::Problem problem);

/// Checking stops after so many problems.
inline constexpr std::size_t kMostProblems = 200;

/// The resolved form of `recipe`, which holds no [matrix]; valid only if no error was added to
/// `diagnostics`. The source positions of its keys are their places in the documented order.
toml::table resolve(const toml::table& recipe, const Changes& changes, const std::string& file,
                    const catalog::Catalog& catalog, std::vector<Diagnostic>& diagnostics);

/// The same for only a dataset's parameters; the result holds its `plugin` too.
toml::table resolve_dataset(const catalog::Manifest& plugin, const toml::table& given,
                            const Changes& changes, const catalog::Catalog& catalog,
                            std::vector<Diagnostic>& diagnostics);

}  // namespace backstop::recipe
