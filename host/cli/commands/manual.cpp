// The manual page backstop(1), from the texts of --help, so that the two cannot disagree.
#include <algorithm>
#include <array>
#include <sstream>

#include "host/cli/command.hpp"

namespace backstop::cli {
namespace {

constexpr std::array kFiles = {
    Explanation{"PREFIX/lib/backstop/plugins",
                "the built-in plugins; PREFIX is where Backstop is installed, /usr for the Debian "
                "package"},
    Explanation{
        "~/.local/share/backstop/plugins",
        "the user's own plugins, or `XDG_DATA_HOME`/backstop/plugins if that variable is set"},
    Explanation{"PREFIX/share/backstop/recipes", "recipes to start from"},
    Explanation{"runs/NAME/ID",
                "the output of a run: the resolved recipe, results, models and a report"},
};

constexpr std::array kExamples = {
    Explanation{"backstop run /usr/share/backstop/recipes/quickstart.toml",
                "Plants a backdoor in a small classifier and removes it."},
    Explanation{"backstop run recipe.toml --set seed=1 --set defense.0.epochs=5",
                "Runs a recipe with some values overridden."},
    Explanation{"backstop list --plugin-path build/lib/backstop/plugins",
                "Lists the plugins, including those of a project that was just built."},
    Explanation{"cp my-defense.so ~/.local/share/backstop/plugins/",
                "Installs a plugin for the current user."},
};

/// Escapes text for troff, with everything between back-ticks in bold.
std::string roff(std::string_view text) {
  std::string out;
  bool bold = false;
  const bool paired = std::count(text.begin(), text.end(), '`') % 2 == 0;
  for (const char c : text) {
    const bool starts_line = out.empty() || out.back() == '\n';
    if (c == '`' && paired)
      out += (bold = !bold) ? "\\fB" : "\\fR";
    else if (c == '`')
      out += "\\(ga";
    else if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if (c == '~')
      out += "\\(ti";
    else if (c == '^')
      out += "\\(ha";
    else if (starts_line && (c == '.' || c == '\''))
      out += std::string("\\&") + c;
    else
      out += c;
  }
  return out;
}

std::string bold(std::string_view text) {
  return "\\fB" + roff(text) + "\\fR";
}

std::string italic(std::string_view text) {
  return "\\fI" + roff(text) + "\\fR";
}

std::string section(std::string_view title) {
  return ".SH " + std::string(title) + "\n";
}

std::string item(const std::string& term, std::string_view text) {
  return ".TP\n" + term + "\n" + roff(text) + "\n";
}

std::string items(std::span<const Explanation> explanations) {
  std::string text;
  for (const auto& [term, explanation] : explanations) text += item(bold(term), explanation);
  return text;
}

std::string item(const OptionText& option) {
  return item((option.letter.empty() ? "" : bold(option.letter) + ", ") + bold(option.name) +
                  (option.value.empty() ? "" : " " + italic(option.value)),
              option.description);
}

/// Lines are joined; an empty line begins a new paragraph, and an indented line stays on its own.
std::string paragraphs(const char* description) {
  std::istringstream lines(description);
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    const auto indent = std::min(line.find_first_not_of(' '), line.size());
    if (line.empty())
      text += ".PP\n";
    else
      text += (indent > 0 ? ".br\n" : "") + roff(std::string_view(line).substr(indent)) + "\n";
  }
  return text;
}

bool has_option(const Command& command, const std::string& name) {
  const auto options = option_texts(command);
  return std::any_of(options.begin(), options.end(),
                     [&](const OptionText& option) { return option.name == name; });
}

bool in_every_command(const OptionText& option) {
  return std::all_of(commands().begin(), commands().end(),
                     [&](const auto* command) { return has_option(*command, option.name); });
}

std::string usage(const Command& command) {
  const Usage usage = usage_of(command);
  return bold(usage.words) + (usage.argument.empty() ? "" : " " + italic(usage.argument));
}

std::string about(const Command& command) {
  std::string text = ".SS " + usage(command) + "\n" + paragraphs(command.description);
  for (const auto& option : option_texts(command))
    if (!in_every_command(option)) text += item(option);
  return text;
}

std::string synopsis() {
  std::string text;
  for (const auto* command : commands()) {
    const std::string passed_on = usage_of(*command).passed_on;
    if (!text.empty()) text += ".br\n";
    text += fmt::format("{} [{}]", usage(*command), italic("OPTIONS"));
    if (!passed_on.empty()) text += fmt::format(" {}", italic(passed_on));
    text += "\n";
  }
  return text + ".br\n" + bold("backstop help") + " [" + italic("COMMAND") + "]\n";
}

std::string common_options() {
  std::string text;
  for (const auto& option : option_texts(*commands().front()))
    if (in_every_command(option)) text += item(option);
  return text;
}

std::string examples() {
  std::string text;
  for (const auto& [command, what] : kExamples)
    text += std::string(text.empty() ? "" : ".PP\n") + roff(what) + "\n.PP\n.RS 4\n.EX\n" +
            roff(command) + "\n.EE\n.RE\n";
  return text;
}

}  // namespace

std::string manual_page() {
  std::string text =
      ".TH BACKSTOP 1 \"\" \"backstop " BACKSTOP_VERSION "\" \"User Commands\"\n" +
      section("NAME") +
      "backstop \\- plant backdoors in image classifiers, remove them, and measure "
      "what is left\n" +
      section("SYNOPSIS") + synopsis() + section("DESCRIPTION") +
      paragraphs(
          "Backstop trains image classifiers with backdoors in them, removes the "
          "backdoors, and measures what is\n"
          "left and what the removal cost. A recipe in TOML names the attack, the "
          "defenses, the dataset and the\n"
          "learning-rate schedulers. Each of these is a plugin: a shared library that "
          "is found when the command runs.\n"
          "\n"
          "Results go to standard output, everything else to standard error.\n") +
      section("COMMANDS");
  for (const auto* command : commands()) text += about(*command);
  return text + section("COMMON OPTIONS") + common_options() + section("ENVIRONMENT") +
         items(environment_variables()) + section("EXIT STATUS") + items(exit_statuses()) +
         section("FILES") + items(kFiles) + section("EXAMPLES") + examples();
}

}  // namespace backstop::cli
