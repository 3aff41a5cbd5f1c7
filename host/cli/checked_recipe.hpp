// What the commands that check a recipe share: overrides, diagnostics, and the exit code.
#pragma once

#include "host/cli/command.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::cli {

/// --set
void add_set_option(boost::program_options::options_description& options);

/// `done` if there are no errors; `plugin` or `environment` if every error is about plugins or the
/// environment (`plugin` if both occur); otherwise `usage`.
base::ExitCode exit_code_of(const recipe::CheckedRecipe& checked);

/// Prints errors and warnings to stderr.
void print_diagnostics(const recipe::CheckedRecipe& checked, bool color);

}  // namespace backstop::cli
