// A command: its entry in the help, its options, and the function that runs it.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/variables_map.hpp>
#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/catalog/catalog.hpp"
#include "host/cli/console.hpp"

namespace backstop::cli {

/// A command line after parsing.
struct Invocation {
  std::vector<std::string> words;  ///< all that stand behind `backstop`
  std::vector<std::string> arguments;
  std::vector<std::string> passed_on;  ///< those behind `--`, of a command that hands them on
  boost::program_options::variables_map options;
  bool color_out = false;
  bool color_err = false;

  [[nodiscard]] bool has(const char* option) const { return options.count(option) != 0; }
  [[nodiscard]] std::vector<std::string> all(const char* option) const {
    return has(option) ? options[option].as<std::vector<std::string>>()
                       : std::vector<std::string>{};
  }
  /// The value of an option that may be given only once.
  [[nodiscard]] std::optional<std::string> one(const char* option) const {
    const auto values = all(option);
    if (values.size() > 1)
      throw base::HostError(base::ExitCode::usage,
                            fmt::format("option `--{}` was given more than once", option));
    return values.empty() ? std::nullopt : std::optional(values.front());
  }
  /// The plugins in --plugin-path and in the other plugin folders.
  [[nodiscard]] catalog::Catalog catalog() const {
    return catalog::Catalog::scan(catalog::Catalog::search_path(all("plugin-path")));
  }
};

struct Command {
  const char* name;
  const char* summary;  ///< one line of `backstop --help`
  /// "RECIPE", "[KIND]" (in brackets if it is optional), "[DIR...]" (any number), or empty; behind it
  /// " [-- WORD...]" if what follows `--` is handed on
  const char* argument;
  const char* description;  ///< paragraphs below the usage line, each line ends with a newline
  void (*add_options)(boost::program_options::options_description&);
  base::ExitCode (*run)(const Invocation&);
};

extern const Command kScan, kClean, kRun, kCheck, kExpand, kSweep, kStatus, kReport, kList,
    kInspect, kNew, kPluginCheck, kData, kCleanUp, kDoctor;
std::span<const Command* const> commands();

/// Runs a command; `words` are those behind `backstop COMMAND`. Answers --help and --version
/// itself. Throws HostError(usage), with a suggestion, when the words do not fit the command.
base::ExitCode run_command(const Command& command, std::vector<std::string> words);

/// The kind that "defense" or "defenses" names. Throws HostError(usage) and suggests the nearest.
catalog::Kind require_kind(std::string text);

/// "backstop run RECIPE [OPTIONS]", in the parts that the manual sets apart: the words, what stands
/// before the options, and what stands behind them.
struct Usage {
  std::string words, argument, passed_on;
};
Usage usage_of(const Command& command);

/// An option as the help shows it.
struct OptionText {
  std::string letter;  ///< "-v", or empty
  std::string name;    ///< "--verbose"
  std::string value;   ///< "DIR", or empty if it takes no value
  std::string description;
};
/// The command's own options, then those that every command has.
std::vector<OptionText> option_texts(const Command& command);

struct Explanation {
  const char* term;
  const char* text;
};
std::span<const Explanation> environment_variables();
std::span<const Explanation> exit_statuses();

/// The help of one command, and of the program.
std::string help_of(const Command& command);
std::string help_of_program();
std::string version_text();

/// `backstop help --man`: backstop(1), in the man macros.
std::string manual_page();

/// `backstop --complete WORD...`: the candidates for the last of the words behind `backstop`, one
/// per line, as "candidate<TAB>description". Candidates that end in `=` or `/` can be continued.
/// The lines ":files", ":files .EXTENSION" and ":folders" ask the shell to complete those itself.
std::string completions(const std::vector<std::string>& words);

}  // namespace backstop::cli
