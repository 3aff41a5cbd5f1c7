// What a command is: its place in the help, its options and what it does.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/variables_map.hpp>

#include "host/base/error.hpp"
#include "host/catalog/catalog.hpp"
#include "host/cli/console.hpp"

namespace backstop::cli {

/// A command line after parsing.
struct Invocation {
  std::vector<std::string> arguments;
  boost::program_options::variables_map options;
  bool color_out = false;
  bool color_err = false;

  [[nodiscard]] bool has(const char* option) const { return options.count(option) != 0; }
  [[nodiscard]] std::vector<std::string> all(const char* option) const {
    return has(option) ? options[option].as<std::vector<std::string>>()
                       : std::vector<std::string>{};
  }
  /// The value of an option that may be given once.
  [[nodiscard]] std::optional<std::string> one(const char* option) const {
    const auto values = all(option);
    if (values.size() > 1)
      throw base::HostError(base::ExitCode::usage,
                            "option `--" + std::string(option) + "` is given more than once");
    return values.empty() ? std::nullopt : std::optional(values.front());
  }
  /// The plugins of --plugin-path and the other places.
  [[nodiscard]] catalog::Catalog catalog() const {
    return catalog::Catalog::scan(catalog::Catalog::search_path(all("plugin-path")));
  }
};

struct Command {
  const char* name;
  const char* summary;      ///< one line of `backstop --help`
  const char* argument;     ///< "RECIPE", "[KIND]": brackets where it may be left out; or empty
  const char* description;  ///< paragraphs below the usage line, each line ends with a newline
  void (*add_options)(boost::program_options::options_description&);
  base::ExitCode (*run)(const Invocation&);
};

extern const Command kRun, kCheck, kList, kInspect, kNew, kPluginCheck, kData, kDoctor;
std::span<const Command* const> commands();

/// `text` without the first word: what stands behind `backstop COMMAND`. Answers --help and
/// --version itself. Throws HostError(usage) in the command's own words, with a suggestion.
base::ExitCode run_command(const Command& command, const std::vector<std::string>& words);

/// The kind that "defense" or "defenses" names. Throws HostError(usage) with the nearest.
catalog::Kind require_kind(std::string text);

/// An option as texts show it.
struct OptionText {
  std::string letter;  ///< "-v", or empty
  std::string name;    ///< "--verbose"
  std::string value;   ///< "DIR", or empty where it takes none
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

/// `backstop --complete WORD...`: what can stand in place of the last of the words behind
/// `backstop`. One candidate a line, "candidate<TAB>description"; those that end in `=` or `/` go
/// on. The line ":files", ":files .EXTENSION" or ":folders" leaves that to the shell.
std::string completions(const std::vector<std::string>& words);

}  // namespace backstop::cli
