// What is wrong with a recipe, and where.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace backstop::recipe {

struct Diagnostic {
  enum class Severity { error, warning };
  Severity severity = Severity::error;
  bool environment =
      false;            ///< the recipe is fine, but a file that it names is missing (exit code 4)
  bool plugin = false;  ///< the recipe is fine, but a plugin that it names is refused (exit code 3)
  std::string message;  ///< lower case, no final stop
  std::string hint;     ///< may be empty
  std::string file;     ///< or "--set KEY=VALUE"
  std::uint32_t line = 0;    ///< from 1; 0: no place
  std::uint32_t column = 0;  ///< from 1
  std::uint32_t length = 1;  ///< columns that the carets cover
};

/// Diagnostics with their excerpts and carets, as compilers show them:
///
///   error: unknown key `widht` in [model]
///     --> recipes/mine.toml:10:1
///      |
///   10 | widht = 16
///      | ^^^^^
///   hint: did you mean `width`?
///
/// At most 20, errors before warnings, then "and N more". `source` is the recipe's text; `color`
/// adds ANSI colors.
std::string render(const std::vector<Diagnostic>& diagnostics, const std::string& source,
                   bool color);

}  // namespace backstop::recipe
