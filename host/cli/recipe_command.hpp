// What `check` and `run` have in common: a recipe, overrides, and its diagnostics.
#pragma once

#include "host/cli/command.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::host {

/// --set
void add_set_option(boost::program_options::options_description& options);

/// done without errors; environment when all of them are of the environment; else usage.
ExitCode exit_code_of(const CheckedRecipe& checked);

/// On stderr, warnings too.
void print_diagnostics(const CheckedRecipe& checked, bool color);

}  // namespace backstop::host
