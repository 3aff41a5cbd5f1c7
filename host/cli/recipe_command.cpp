#include "host/cli/recipe_command.hpp"

#include <cstdio>

#include <boost/program_options/value_semantic.hpp>

namespace backstop::host {

void add_set_option(boost::program_options::options_description& options) {
  options.add_options()(
      "set", boost::program_options::value<std::vector<std::string>>()->value_name("KEY=VALUE"),
      "override a key of the recipe (`defense.0.epochs=1`); may be repeated");
}

ExitCode exit_code_of(const CheckedRecipe& checked) {
  ExitCode code = ExitCode::done;
  for (const auto& diagnostic : checked.diagnostics) {
    if (diagnostic.severity != Diagnostic::Severity::error) continue;
    if (!diagnostic.environment && !diagnostic.plugin) return ExitCode::usage;
    if (code != ExitCode::plugin)
      code = diagnostic.plugin ? ExitCode::plugin : ExitCode::environment;
  }
  return code;
}

void print_diagnostics(const CheckedRecipe& checked, bool color) {
  if (checked.diagnostics.empty()) return;
  std::fputs(render(checked.diagnostics, checked.source, color).c_str(), stderr);
}

}  // namespace backstop::host
