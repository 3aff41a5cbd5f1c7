#include "host/recipe/diagnostic.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "host/base/text.hpp"

namespace backstop::recipe {
namespace {

using base::printable;

constexpr std::string_view kRed = "\033[1;31m";
constexpr std::string_view kYellow = "\033[1;33m";
constexpr std::string_view kBlue = "\033[34m";
constexpr std::string_view kCyan = "\033[36m";
constexpr std::string_view kPlain = "\033[0m";

std::string_view line_of(std::string_view source, std::uint32_t number) {
  for (; number > 1; --number) {
    const auto end = source.find('\n');
    if (end == std::string_view::npos) return {};
    source.remove_prefix(end + 1);
  }
  std::string_view line = source.substr(0, source.find('\n'));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

/// Longest excerpt, in characters.
constexpr std::size_t kWidest = 160;
/// Most diagnostics that are rendered.
constexpr std::size_t kMostShown = 20;

bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
}

struct Excerpt {
  std::string text;
  std::uint32_t column;  ///< in the text
};

/// The line, or the part of a long one around `column`.
Excerpt excerpt_of(std::string_view line, std::uint32_t column) {
  const auto characters =
      static_cast<std::size_t>(std::count_if(line.begin(), line.end(), starts_character));
  if (characters <= kWidest) return {std::string(line), column};
  constexpr std::string_view kCut = "...";
  const std::size_t first = column > kWidest / 2 ? column - kWidest / 2 : 0;
  Excerpt excerpt{first > 0 ? std::string(kCut) : "", column};
  std::size_t at = 0;
  for (const char c : line) {
    if (starts_character(c)) ++at;
    if (at > first && at <= first + kWidest) excerpt.text += c;
  }
  if (first > 0)
    excerpt.column += static_cast<std::uint32_t>(kCut.size()) - static_cast<std::uint32_t>(first);
  if (characters > first + kWidest) excerpt.text += kCut;
  return excerpt;
}

/// Those to render, errors first, in the order of the file.
std::vector<const Diagnostic*> shown_of(const std::vector<Diagnostic>& diagnostics) {
  std::vector<const Diagnostic*> shown;
  for (const auto severity : {Diagnostic::Severity::error, Diagnostic::Severity::warning})
    for (const auto& diagnostic : diagnostics)
      if (diagnostic.severity == severity && shown.size() < kMostShown)
        shown.push_back(&diagnostic);
  std::sort(shown.begin(), shown.end());
  return shown;
}

/// Blanks as wide as the line before `column`, then carets. Columns are characters, not bytes. Tabs
/// stay tabs, so that the carets are below the text whatever the terminal's tab width is.
std::string carets(std::string_view line, std::uint32_t column, std::uint32_t length) {
  std::string out;
  std::uint32_t at = 1;
  std::uint32_t covered = 0;
  for (const char c : line) {
    if (!starts_character(c)) continue;
    if (at < column) out += c == '\t' ? '\t' : ' ';
    if (at >= column && covered < length) {
      out += '^';
      ++covered;
    }
    ++at;
  }
  return covered == 0 ? out + '^' : out;
}

}  // namespace

std::string render(const std::vector<Diagnostic>& diagnostics, const std::string& source,
                   bool color) {
  const auto paint = [color](std::string_view code, std::string_view text) {
    return color ? fmt::format("{}{}{}", code, text, kPlain) : std::string(text);
  };
  std::string out;
  for (const Diagnostic* shown : shown_of(diagnostics)) {
    const Diagnostic& diagnostic = *shown;
    const bool error = diagnostic.severity == Diagnostic::Severity::error;
    const std::string_view alarm = error ? kRed : kYellow;
    if (!out.empty()) out += '\n';
    out += fmt::format("{}: {}\n", paint(alarm, error ? "error" : "warning"),
                       printable(diagnostic.message));

    const std::string file = printable(diagnostic.file);
    const std::string number = std::to_string(diagnostic.line);
    const std::size_t gutter = std::max<std::size_t>(2, number.size());
    const std::string margin(gutter, ' ');
    const std::string arrow = margin + paint(kBlue, "-->"), bar = margin + paint(kBlue, " |");
    if (diagnostic.line == 0) {
      if (!file.empty()) out += fmt::format("{} {}\n", arrow, file);
    } else {
      const auto [line, column] = excerpt_of(line_of(source, diagnostic.line), diagnostic.column);
      out += fmt::format("{} {}:{}:{}\n{}\n", arrow, file, number, diagnostic.column, bar);
      out += fmt::format("{:{}}{} {}\n", "", gutter - number.size(), paint(kBlue, number + " |"),
                         base::printable(line, "\t"));
      out += fmt::format("{} {}\n", bar, paint(alarm, carets(line, column, diagnostic.length)));
    }
    if (!diagnostic.hint.empty())
      out += fmt::format("{}: {}\n", paint(kCyan, "hint"), printable(diagnostic.hint));
  }
  if (diagnostics.size() > kMostShown)
    out += fmt::format("\nand {} more\n", diagnostics.size() - kMostShown);
  return out;
}

}  // namespace backstop::recipe
