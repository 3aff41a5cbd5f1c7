// What `check` and `run` have in common: a recipe, overrides, and its diagnostics.
#pragma once

#include "host/cli/command.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::cli {

/// --set
void add_set_option(boost::program_options::options_description& options);

/// done without errors; environment when all of them are of the environment; else usage.
base::ExitCode exit_code_of(const recipe::CheckedRecipe& checked);

/// On stderr, warnings too.
void print_diagnostics(const recipe::CheckedRecipe& checked, bool color);

}  // namespace backstop::cli
