#include "host/cli/command.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <sstream>

#include <unistd.h>

#include <boost/program_options/errors.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>

#include "host/base/text.hpp"
#include "host/cli/engine_process.hpp"
#include "host/cli/run_recipes.hpp"

namespace backstop::cli {
namespace {

namespace po = boost::program_options;
namespace style = po::command_line_style;

po::options_description options_of(const Command& command) {
  po::options_description options;
  command.add_options(options);
  auto add = options.add_options();
  add("plugin-path", po::value<std::vector<std::string>>()->value_name("DIR"),
      "look for plugins in DIR first; may be repeated");
  add("json", "write JSON to standard output");
  add("color", po::value<std::vector<std::string>>()->value_name("WHEN"),
      "color the output: auto, always or never");
  add("help,h", "show this help");
  add("version", "show the version");
  return options;
}

std::string see_help(const Command& command) {
  return fmt::format("see `backstop {} --help`", command.name);
}

std::string suggestion(const std::string& option, const po::options_description& options,
                       const Command& command) {
  std::vector<std::string> names;
  for (const auto& candidate : options.options()) names.push_back("--" + candidate->long_name());
  const auto meant = base::nearest(option, names);
  return meant ? fmt::format("did you mean `{}`?", *meant) : see_help(command);
}

/// Turns the exceptions of Boost.Program_options into our own errors.
po::parsed_options parse(const std::vector<std::string>& words,
                         const po::options_description& options, const Command& command) {
  try {
    // Without allow_guessing: `--verb` would silently mean `--verbose`.
    return po::command_line_parser(words)
        .options(options)
        .style(style::unix_style & ~style::allow_guessing)
        .run();
  } catch (const po::unknown_option& e) {
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("`{}` has no option `{}`", command.name, e.get_option_name()),
                          suggestion(e.get_option_name(), options, command));
  } catch (const po::invalid_command_line_syntax& e) {
    const bool missing = e.kind() == po::invalid_syntax::missing_parameter ||
                         e.kind() == po::invalid_syntax::empty_adjacent_parameter;
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("option `{}` {}", e.get_option_name(),
                                      missing ? "needs a value" : "takes no value"),
                          see_help(command));
  } catch (const po::error& e) {
    throw base::HostError(base::ExitCode::usage, e.what(), see_help(command));
  }
}

po::variables_map store(const po::parsed_options& parsed, const Command& command) {
  po::variables_map values;
  try {
    po::store(parsed, values);
  } catch (const po::multiple_occurrences& e) {
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("option `{}` was given more than once", e.get_option_name()),
                          see_help(command));
  }
  return values;
}

ColorMode color_mode(const std::optional<std::string>& when) {
  if (!when || *when == "auto") return ColorMode::automatic;
  if (*when == "always") return ColorMode::always;
  if (*when == "never") return ColorMode::never;
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("option `--color` must be auto, always or never, got `{}`", *when));
}

/// "KIND" and "NAME" of "KIND NAME".
std::vector<std::string> places_of(const Command& command) {
  std::istringstream words{usage_of(command).argument};
  return {std::istream_iterator<std::string>(words), {}};
}

std::string takes(const std::vector<std::string>& places) {
  if (places.empty()) return "no arguments";
  if (places.size() == 1) return "one " + places[0];
  std::string text = places[0];
  for (std::size_t i = 1; i < places.size(); ++i) text += " and " + places[i];
  return text;
}

std::string given(const std::vector<std::string>& arguments) {
  if (arguments.size() == 1) return fmt::format("`{}`", arguments[0]);
  return fmt::format("{}: `{}`, `{}`{}", arguments.size(), arguments[0], arguments[1],
                     arguments.size() > 2 ? ", ..." : "");
}

void check_arguments(const Command& command, const std::vector<std::string>& arguments) {
  const auto places = places_of(command);
  const bool any_number = !places.empty() && places.back().find("...") != std::string::npos;
  if (arguments.size() > places.size() && !any_number)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("`{}` takes {}, got {}", command.name, takes(places), given(arguments)),
        see_help(command));
  if (arguments.size() < places.size() && !places[arguments.size()].starts_with('['))
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("`{}` needs a {}", command.name, places[arguments.size()]),
                          see_help(command));
}

/// The resolved recipe holds these values, and a recipe is UTF-8.
void check_settings(const std::vector<std::string>& settings) {
  for (const auto& setting : settings)
    if (base::valid_utf8(setting) != setting)
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("`--set {}` is not UTF-8, but a recipe must be", base::valid_utf8(setting)),
          "rename the file, or name it through a link");
}

}  // namespace

std::span<const Command* const> commands() {
  static constexpr std::array kCommands = {&kScan,    &kClean,  &kRun,         &kCheck,   &kExpand,
                                           &kSweep,   &kStatus, &kReport,      &kList,    &kData,
                                           &kInspect, &kNew,    &kPluginCheck, &kCleanUp, &kDoctor};
  return kCommands;
}

Usage usage_of(const Command& command) {
  const std::string argument = command.argument;
  const auto behind = argument.find(" [-- ");
  return {fmt::format("backstop {}", command.name), argument.substr(0, behind),
          behind == std::string::npos ? "" : argument.substr(behind + 1)};
}

base::ExitCode run_command(const Command& command, std::vector<std::string> words) {
  const auto options = options_of(command);
  Invocation invocation;
  if (const auto behind = std::find(words.begin(), words.end(), "--");
      behind != words.end() && !usage_of(command).passed_on.empty()) {
    invocation.passed_on.assign(behind + 1, words.end());
    words.erase(behind, words.end());
  }
  const auto parsed = parse(words, options, command);
  std::istringstream name{command.name};
  invocation.words.assign(std::istream_iterator<std::string>(name), {});
  invocation.words.insert(invocation.words.end(), words.begin(), words.end());
  invocation.options = store(parsed, command);
  if (invocation.has("help")) {
    print(help_of(command));
    return base::ExitCode::done;
  }
  if (invocation.has("version")) {
    print(version_text());
    return base::ExitCode::done;
  }
  for (const auto& option : parsed.options)
    if (option.string_key.empty())
      invocation.arguments.insert(invocation.arguments.end(), option.value.begin(),
                                  option.value.end());
  const ColorMode mode = color_mode(invocation.one("color"));
  invocation.color_out = use_color(mode, STDOUT_FILENO);
  invocation.color_err = use_color(mode, STDERR_FILENO);
  set_up_logging(invocation.color_err, spdlog::level::info);
  check_arguments(command, invocation.arguments);
  check_settings(invocation.all("set"));
  if (EngineLink* const parent = EngineLink::get()) return run_for(*parent, invocation);
  return command.run(invocation);
}

std::vector<OptionText> option_texts(const Command& command) {
  std::vector<OptionText> texts;
  const auto options = options_of(command);
  for (const auto& option : options.options()) {
    const std::string shown = option->canonical_display_name(style::allow_dash_for_short);
    const bool takes_value = option->semantic()->max_tokens() > 0;
    texts.push_back({shown.starts_with('-') ? shown : "", "--" + option->long_name(),
                     takes_value ? option->format_parameter() : "", option->description()});
  }
  return texts;
}

std::span<const Explanation> environment_variables() {
  static constexpr std::array kVariables = {
      Explanation{"BACKSTOP_PLUGIN_PATH", "folders to search for plugins, separated by colons"},
      Explanation{"BACKSTOP_CHECKPOINT_SECONDS",
                  "seconds of training between two checkpoints; the default is 120"},
      Explanation{"BACKSTOP_NO_PROGRESS", "if set, show no progress on standard error"},
      Explanation{"NO_COLOR", "if set, use no color"},
      Explanation{"CLICOLOR_FORCE", "if set, use color even without a terminal"},
  };
  return kVariables;
}

std::span<const Explanation> exit_statuses() {
  static constexpr std::array kStatuses = {
      Explanation{"0", "success"},
      Explanation{"1",
                  "a job failed, an expectation was not met, a scan is suspicious, or cleaning "
                  "cost too much"},
      Explanation{"2", "the command line or the recipe is invalid"},
      Explanation{"3", "a plugin is missing, is incompatible, or failed"},
      Explanation{"4", "problem with the environment: data missing, disk full, no permission"},
      Explanation{"5", "internal error (please report it)"},
      Explanation{"6", "`status`: something still runs or waits"},
      Explanation{"129, 130, 143", "ended by SIGHUP, Ctrl-C or SIGTERM; finished stages are kept"},
  };
  return kStatuses;
}

std::string help_of(const Command& command) {
  std::vector<std::vector<base::Cell>> rows;
  for (const auto& [letter, name, value, description] : option_texts(command))
    rows.push_back(
        {{(letter.empty() ? "    " : letter + ", ") + name + (value.empty() ? "" : " " + value)},
         {description}});
  const auto [words, argument, passed_on] = usage_of(command);
  return fmt::format("usage: {}{}{} [OPTIONS]{}{}\n\n{}\noptions:\n{}", words,
                     argument.empty() ? "" : " ", argument, passed_on.empty() ? "" : " ", passed_on,
                     command.description, base::columns(rows, "ll", "  "));
}

std::string help_of_program() {
  std::vector<std::vector<base::Cell>> rows, variables;
  for (const auto* command : commands())
    rows.push_back(
        {{std::string(command->name) + " " + usage_of(*command).argument}, {command->summary}});
  rows.push_back({{"help [COMMAND]"}, {"show this help, or the help of a command"}});
  for (const auto& [name, text] : environment_variables()) variables.push_back({{name}, {text}});
  std::string statuses;
  for (const auto& [status, text] : exit_statuses())
    statuses += std::string("  ") + status + "  " + text + "\n";
  return "usage: backstop COMMAND [ARGUMENT] [OPTIONS]\n\n"
         "Finds and removes backdoors in image classifiers, and trains classifiers with backdoors "
         "to\nmeasure how well that works.\n"
         "\ncommands:\n" +
         base::columns(rows, "ll", "  ") +
         "\nRun `backstop COMMAND --help` for the help of a command, `backstop --version` for the "
         "version.\n"
         "\nenvironment:\n" +
         base::columns(variables, "ll", "  ") + "\nexit status:\n" + statuses;
}

catalog::Kind require_kind(std::string text) {
  if (text.ends_with('s')) text.pop_back();
  if (const auto kind = catalog::kind_from(text)) return *kind;
  std::vector<std::string> names;
  for (const catalog::Kind kind : catalog::kKinds) names.emplace_back(to_string(kind));
  const auto meant = base::nearest(text, names);
  throw base::HostError(base::ExitCode::usage, fmt::format("there is no kind `{}`", text),
                        meant ? fmt::format("did you mean `{}`?", *meant)
                              : "the kinds are attack, defense, scheduler and dataset");
}

std::string version_text() {
  const catalog::BuildFacts& own = catalog::own_build_facts();
  return fmt::format("backstop {} (SDK ABI {}, LibTorch {})\n", BACKSTOP_VERSION, own.abi,
                     own.torch);
}

}  // namespace backstop::cli
