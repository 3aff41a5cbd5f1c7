#include "host/cli/checked_recipe.hpp"

#include <cstdio>

#include <boost/program_options/value_semantic.hpp>

namespace backstop::cli {

void add_set_option(boost::program_options::options_description& options) {
  options.add_options()(
      "set", boost::program_options::value<std::vector<std::string>>()->value_name("KEY=VALUE"),
      "override a value in the recipe (`defense.0.epochs=1`); may be repeated");
}

base::ExitCode exit_code_of(const recipe::CheckedRecipe& checked) {
  base::ExitCode code = base::ExitCode::done;
  for (const auto& diagnostic : checked.diagnostics) {
    if (diagnostic.severity != recipe::Diagnostic::Severity::error) continue;
    if (!diagnostic.environment && !diagnostic.plugin) return base::ExitCode::usage;
    if (code != base::ExitCode::plugin)
      code = diagnostic.plugin ? base::ExitCode::plugin : base::ExitCode::environment;
  }
  return code;
}

void print_diagnostics(const recipe::CheckedRecipe& checked, bool color) {
  if (checked.diagnostics.empty()) return;
  std::fputs(recipe::render(checked.diagnostics, checked.source, color).c_str(), stderr);
}

}  // namespace backstop::cli
